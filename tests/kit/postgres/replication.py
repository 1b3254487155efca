"""A PostgreSQL primary and its standby: one may be killed, the other promoted."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine

from kit.postgres.server import Postgres, run_postgres
from kit.waiting import wait_for

_STREAMING = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"


class StandbyServer(Postgres):
    """A server that may be a standby: its data is a copy of `primary`, which it follows."""

    def __init__(self, folder: Path, primary: Postgres) -> None:
        self._primary = primary
        super().__init__(folder)

    def _make_data(self) -> None:
        source = self._primary.url("postgres").rpartition("/")[0]
        self._run_program("pg_basebackup", "-D", str(self.data), "-R", "-c", "fast", "-d", source)

    def promote(self) -> None:
        """Take writes; return once it does."""
        self._control("promote")


class ReplicatedPair:
    """A primary and its standby, which hold the same databases."""

    def __init__(self, primary: Postgres, standby: StandbyServer) -> None:
        self.primary = primary
        self.standby = standby

    def url(self, name: str) -> str:
        """Return the url of a database that names both servers, the first primary first."""
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        return f"postgresql://postgres:canary-of-postgres@{hosts}/{name}"

    def create_database(self) -> str:
        """Make a database, wait until the standby has it too, and return its url."""
        name = self.primary.create_database().rpartition("/")[2]
        self.wait_until_replayed()
        return self.url(name)

    def wait_until_replayed(self) -> None:
        """Return once the standby has replayed all that the primary has written."""
        end = query_scalar(self.primary, "SELECT pg_current_wal_flush_lsn()::text")
        level = f"SELECT coalesce(pg_last_wal_replay_lsn() >= '{end}', false)"
        wait_for(lambda: bool(query_scalar(self.standby, level)))

    def make_synchronous(self) -> None:
        """Let the primary acknowledge only what the standby has."""
        _set(self.primary, "synchronous_standby_names = '*'")
        in_sync = f"{_STREAMING} AND sync_state = 'sync'"
        wait_for(lambda: query_scalar(self.primary, in_sync) == 1)

    def pause_replication(self) -> None:
        """Let the standby get nothing more: what the primary commits now, a promotion loses."""
        _set(self.standby, "primary_conninfo = ''")
        wait_for(
            lambda: query_scalar(self.primary, "SELECT count(*) FROM pg_stat_replication") == 0
        )

    def kill_primary(self) -> None:
        """End the primary by SIGKILL, as a power cut would."""
        pid = int((self.primary.data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            os.kill(each, signal.SIGKILL)
        # Where nobody waits for it, its number stays taken, and its locks seem to be held.
        data = self.primary.data
        for lock in (data / "postmaster.pid", *data.parent.glob(".s.PGSQL.*")):
            lock.unlink()


@contextmanager
def run_replicated_pair(*, synchronous: bool = False) -> Iterator[ReplicatedPair]:
    """Run a primary and its standby; skip where PostgreSQL 15 is not installed."""
    with run_postgres() as primary:
        folder = Path(tempfile.mkdtemp(prefix="longwatch-standby-"))
        standby = StandbyServer(folder, primary)
        standby.start()
        try:
            wait_for(lambda: query_scalar(primary, _STREAMING) == 1)
            pair = ReplicatedPair(primary, standby)
            if synchronous:
                pair.make_synchronous()
            yield pair
        finally:
            standby.kill()
            shutil.rmtree(folder)


def query_scalar(server: Postgres, statement: str) -> object:
    """Run a statement on a server; return its first value, if it has any."""
    url = server.url("postgres").replace("postgresql:", "postgresql+psycopg:")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            found = connection.exec_driver_sql(statement)
            return found.scalar() if found.returns_rows else None
    finally:
        engine.dispose()


def _set(server: Postgres, setting: str) -> None:
    query_scalar(server, f"ALTER SYSTEM SET {setting}")
    query_scalar(server, "SELECT pg_reload_conf()")
