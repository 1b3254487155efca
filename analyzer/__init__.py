"""Read windows against a memory per camera and answer the standing questions."""
