"""Cut each camera's stream into windows of stills."""
