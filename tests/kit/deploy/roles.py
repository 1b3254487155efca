"""Roles whose processes work, die, hang or refuse: a supervisor runs each in its own process."""

import gc
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from deploy.runtime.process import Keepalive, ProcessRole
from deploy.runtime.roles import IngestRole
from ingest.camera import Camera
from storage.errors import StorageDown, StorageUnfit


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRole(ProcessRole):
    """A role that writes lines to a file."""

    file: Path

    def write(self, line: object) -> None:
        with self.file.open("a") as lines:
            lines.write(f"{line}\n")

    def write_pid(self) -> None:
        self.write(os.getpid())


class WorkingRole(FileRole):
    """Write its pid, and keep its deadline until it is stopped."""

    def run(self, stop: threading.Event, keepalive: Keepalive) -> None:
        self.write_pid()
        while not stop.wait(0.05):
            keepalive(5.0)
        self.write("stopped")


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashingRole(FileRole):
    """Crash at once, with a secret in the error."""

    secret: str

    def run(self, stop: threading.Event, keepalive: Keepalive) -> None:
        self.write_pid()
        raise RuntimeError(f"cannot open rtsp://guard:{self.secret}@10.0.0.21/sub")


class HangingRole(FileRole):
    """Miss its deadline, and ignore SIGTERM."""

    def run(self, stop: threading.Event, keepalive: Keepalive) -> None:
        self.write_pid()
        keepalive(0.5)
        while True:
            time.sleep(60)


class HangingLaterRole(FileRole):
    """Keep its deadline until a file `hang` is beside `file`, then miss it."""

    def run(self, stop: threading.Event, keepalive: Keepalive) -> None:
        self.write_pid()
        while not self.file.with_name("hang").exists():
            keepalive(1.0)
            time.sleep(0.05)
        self.file.with_name("hang").unlink()
        time.sleep(600)


class ListingModulesRole(FileRole):
    """Write who started it, and what it has loaded before it runs."""

    def run(self, stop: threading.Event, keepalive: Keepalive) -> None:
        keepalive(60)
        self.write("\n".join([f"{os.getppid()}", *sys.modules]))
        stop.wait()


class IgnoringStopRole(FileRole):
    """Set a late deadline and never stop."""

    def run(self, stop: threading.Event, keepalive: Keepalive) -> None:
        keepalive(600)
        self.write_pid()
        while True:
            time.sleep(60)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfitRole(FileRole):
    """Not run as it is configured until a file `mended` is beside `file`."""

    secret: str

    def run(self, stop: threading.Event, keepalive: Keepalive) -> None:
        self.write_pid()
        if not self.file.with_name("mended").exists():
            raise StorageUnfit("database", f"it refuses longwatch:{self.secret}")
        while not stop.wait(0.05):
            keepalive(5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LosingStorageRole(FileRole):
    """Raise an error of storage that nobody waits for."""

    secret: str

    def run(self, stop: threading.Event, keepalive: Keepalive) -> None:
        self.write_pid()
        raise StorageDown("database", f"it refuses longwatch:{self.secret}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingHeavyModulesRole(FileRole):
    """Write which heavy modules the process of a camera has loaded before it runs."""

    camera: Camera

    def run(self, stop: threading.Event, keepalive: Keepalive) -> None:
        keepalive(60)
        heavy = {"torch", "transformers", "sqlalchemy", "pydantic_settings", "typer"} & set(
            sys.modules
        )
        self.write(",".join(sorted(heavy)) or "light")
        stop.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchingRole(FileRole):
    """Watch a camera until a file `enough` is there; write what it loaded since the fork."""

    ingest: IngestRole

    def run(self, stop: threading.Event, keepalive: Keepalive) -> None:
        enough = threading.Event()

        def keep_alive(seconds: float) -> None:
            keepalive(seconds)
            if stop.is_set() or self.file.with_name("enough").exists():
                enough.set()

        self.ingest.run(enough, keep_alive)
        keepalive(60)
        # What the fork server froze is not among them.
        loaded = {each.__name__ for each in gc.get_objects() if isinstance(each, ModuleType)}
        own = {"kit", "kit.deploy", __name__, "__mp_main__"}
        self.write(",".join(sorted(loaded - own)) or "nothing")
        stop.wait()
