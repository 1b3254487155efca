"""A real PgBouncer before a PostgreSQL server, as others run it for all that use a database."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit.postgres.server import Postgres

PROGRAM = Path("/usr/sbin/pgbouncer")
PASSWORD = "canary-of-postgres"
USERS = ("postgres", "longwatch", "looker")


class Pooler:
    """A PgBouncer on a port of its own; `settings` are lines of its file."""

    def __init__(self, server: Postgres, folder: Path, settings: Mapping[str, object]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._folder = folder
        users = "".join(f'"{user}" "{PASSWORD}"\n' for user in USERS)
        folder.joinpath("users.txt").write_text(users)
        given = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "plain",
            "auth_file": folder / "users.txt",
            "admin_users": "postgres",
            "pool_mode": "transaction",
            "default_pool_size": 4,
            # The pool hands out its connections in turn, so that each transaction gets another.
            "server_round_robin": 1,
            **settings,
        }
        text = "".join(f"{name} = {value}\n" for name, value in given.items())
        databases = f"[databases]\n* = host=127.0.0.1 port={server.port}\n"
        folder.joinpath("pgbouncer.ini").write_text(f"{databases}[pgbouncer]\n{text}")

    def url(self, direct: str, user: str = "postgres") -> str:
        """Return the url, through the pooler, of the database that another url names."""
        name = direct.rpartition("/")[2]
        return f"postgresql://{user}:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        command = [str(PROGRAM), str(self._folder / "pgbouncer.ini")]
        is_root = os.getuid() == 0  # PgBouncer refuses to be root
        if is_root:
            for each in (self._folder, *self._folder.iterdir()):
                shutil.chown(each, "postgres")
        with self._folder.joinpath("log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd="/",
                user="postgres" if is_root else None,
                group="postgres" if is_root else None,
            )
        self._wait_until_listening()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def _wait_until_listening(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._folder.joinpath("log").read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError("PgBouncer does not listen")


@contextmanager
def run_pgbouncer(server: Postgres, **settings: object) -> Iterator[Pooler]:
    """Run a PgBouncer before a server; skip where there is none, which in CI is a failure."""
    if not PROGRAM.exists():
        if os.environ.get("CI"):
            pytest.fail("PgBouncer is not installed")
        pytest.skip("PgBouncer is not installed")
    folder = Path(tempfile.mkdtemp(prefix="longwatch-pgbouncer-"))
    pooler = Pooler(server, folder, settings)
    pooler.start()
    try:
        yield pooler
    finally:
        pooler.stop()
        shutil.rmtree(folder)
