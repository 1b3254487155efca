"""Fixtures that more than one test file uses; each stands beside what it is about."""

import os

# Two threads of torch that wait for each other beside other work are ten times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = [
    "ingest_fixtures",
    "deploy_fixtures",
    "kafka_broker",
    "postgres_fixtures",
    "storage_fixtures",
]
