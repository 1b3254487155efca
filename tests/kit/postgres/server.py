"""A real PostgreSQL 15: one server for all tests, a new database for each."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from storage.db.database import open_database

BIN = Path("/usr/lib/postgresql/15/bin")
TEMPLATE = "longwatch_template"
_NUMBERS = count()


class Postgres:
    """A server on a port of its own; `durable` as in earnest, else as fast as it gets."""

    def __init__(self, folder: Path, durable: bool = False) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
        self._make_data()
        self._settings = f"-p {self.port} -c listen_addresses=127.0.0.1"
        self._settings += f" -c unix_socket_directories={folder} -c max_connections=200"
        self._settings += "" if durable else " -c fsync=off -c full_page_writes=off"

    def _make_data(self) -> None:
        self._run_program(
            "initdb",
            "-D",
            str(self.data),
            "-A",
            "trust",
            "-U",
            "postgres",
            "--no-sync",
            "--locale=C.UTF-8",
            "-E",
            "UTF8",
        )

    @property
    def data(self) -> Path:
        return self._folder / "data"

    def start(self) -> None:
        self._control("start", "-l", str(self._folder / "log"), "-o", self._settings)

    def stop(self, how: str = "fast") -> None:
        self._control("stop", "-m", how)

    def kill(self) -> None:
        """Stop at once, where it runs."""
        if (self.data / "postmaster.pid").exists():
            self.stop("immediate")

    def url(self, name: str) -> str:
        return f"postgresql://postgres:canary-of-postgres@127.0.0.1:{self.port}/{name}"

    def make_template(self) -> None:
        self._execute(f"CREATE DATABASE {TEMPLATE}")
        open_database(self.url(TEMPLATE)).dispose()

    def create_database(self, template: str = TEMPLATE, options: str = "") -> str:
        """Make a database and return its url."""
        name = f"test_{next(_NUMBERS)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY {options}")
        return self.url(name)

    def drop(self, url: str) -> None:
        self._execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        url = self.url("postgres").replace("postgresql:", "postgresql+psycopg:")
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()

    def _control(self, what: str, *more: str) -> None:
        self._run_program("pg_ctl", "-D", str(self.data), "-w", *more, what)

    def _run_program(self, program: str, *arguments: str) -> None:
        # A server of root's is refused.
        user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        process = subprocess.run(
            [*user, str(BIN / program), *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            cwd="/",
        )
        assert process.returncode == 0, (program, arguments, process.stderr)


@contextmanager
def run_postgres(durable: bool = False) -> Iterator[Postgres]:
    """Run a server; skip where PostgreSQL 15 is not installed."""
    if not BIN.is_dir():
        pytest.skip("PostgreSQL 15 is not installed")
    folder = Path(tempfile.mkdtemp(prefix="longwatch-postgres-"))
    server = Postgres(folder, durable)
    server.start()
    try:
        server.make_template()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with run_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    url = postgres.create_database()
    yield url
    postgres.drop(url)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in a file that no test changes: a copy is made faster than a migration."""
    file = tmp_path_factory.mktemp("template") / "longwatch.db"
    open_database(f"sqlite:///{file}").dispose()
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The url of a database of the newest schema, in a file and on a server."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        return f"sqlite:///{shutil.copy(template, tmp_path / 'longwatch.db')}"
    url: str = request.getfixturevalue("postgres_url")
    return url
