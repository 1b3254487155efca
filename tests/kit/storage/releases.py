"""Databases of a release before this one, and migrations of a release that is to come."""

import shutil
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Engine

from storage.db import database
from storage.db.database import _alembic_config, engine_for

NEXT_REVISION = "9001"
"""The migration of a release to come."""


def create_at_revision(url: str, revision: str) -> Engine:
    """Make a database of an older schema; return an engine that writes as a release does."""
    engine = engine_for(url)
    with engine.begin() as connection:
        command.upgrade(_alembic_config(connection), revision)
    return engine


class NextRelease:
    """A release that has one more migration: this process is that release inside `with`."""

    def __init__(self, folder: Path, head: str, is_safe: bool, statements: tuple[str, ...]) -> None:
        shutil.copytree(database.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
        lines = [
            '"""Change something."""',
            "from alembic import op",
            f"revision, down_revision = {NEXT_REVISION!r}, {head!r}",
            f"safe_while_older_writes = {is_safe}",
            "def upgrade():",
            *(f"    op.execute({each!r})" for each in statements),
        ]
        (folder / "versions" / f"{NEXT_REVISION}.py").write_text("\n".join(lines))
        self._folder = folder
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        self._patch.setattr(database, "MIGRATIONS", self._folder)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
