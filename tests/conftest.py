"""Fixtures that more than one test file uses; each stands beside what it is about."""

pytest_plugins = ["ingest_fixtures", "deploy_fixtures"]
