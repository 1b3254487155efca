"""What the test processes do: each is entered by a supervisor in a process of its own."""

import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from deploy.config.data_dir import StorageLocations
from deploy.runtime.daemon import watch_camera
from ingest.camera import Camera
from storage.errors import StorageDown, StorageUnfit

KeepaliveCallback = Callable[[float], None]
Work = Callable[..., None]


def append_line(file: Path, line: str) -> None:
    with file.open("a") as lines:
        lines.write(f"{line}\n")


def work(*, file: Path, stop: threading.Event, keepalive: KeepaliveCallback) -> None:
    """Say who it is, and keep its promises until it is stopped."""
    append_line(file, f"{os.getpid()}")
    while not stop.wait(0.05):
        keepalive(5.0)
    append_line(file, "stopped")


def die(*, file: Path, secret: str, stop: threading.Event, keepalive: KeepaliveCallback) -> None:
    """Crash at once, with a secret in the error."""
    append_line(file, f"{os.getpid()}")
    raise RuntimeError(f"cannot open rtsp://guard:{secret}@10.0.0.21/sub")


def hang(*, file: Path, stop: threading.Event, keepalive: KeepaliveCallback) -> None:
    """Promise a little and never come back, SIGTERM or not."""
    append_line(file, f"{os.getpid()}")
    keepalive(0.5)
    while True:
        time.sleep(60)


def hang_later(*, file: Path, stop: threading.Event, keepalive: KeepaliveCallback) -> None:
    """Keep its promises until a file `hang` is beside `file`, and come back never more."""
    append_line(file, f"{os.getpid()}")
    while not file.with_name("hang").exists():
        keepalive(1.0)
        time.sleep(0.05)
    file.with_name("hang").unlink()
    time.sleep(600)


def list_modules(*, file: Path, stop: threading.Event, keepalive: KeepaliveCallback) -> None:
    """Say who started it, and what it has loaded before its work begins."""
    keepalive(60)
    append_line(file, "\n".join([f"{os.getppid()}", *sys.modules]))
    stop.wait()


def ignore_stop(*, file: Path, stop: threading.Event, keepalive: KeepaliveCallback) -> None:
    """Promise much and never stop."""
    keepalive(600)
    append_line(file, f"{os.getpid()}")
    while True:
        time.sleep(60)


def refuse(*, file: Path, secret: str, stop: threading.Event, keepalive: KeepaliveCallback) -> None:
    """Not run as it is configured, until a file beside `file` says that this was mended."""
    append_line(file, f"{os.getpid()}")
    if not file.with_name("mended").exists():
        raise StorageUnfit("database", f"it refuses longwatch:{secret}")
    while not stop.wait(0.05):
        keepalive(5.0)


def raise_storage_down(
    *, file: Path, secret: str, stop: threading.Event, keepalive: KeepaliveCallback
) -> None:
    """Let an error of storage that nobody waits for escape."""
    append_line(file, f"{os.getpid()}")
    raise StorageDown("database", f"it refuses longwatch:{secret}")


def list_heavy_modules(
    *, file: Path, camera: Camera, stop: threading.Event, keepalive: KeepaliveCallback
) -> None:
    """Say what the process of a camera has loaded before its work begins."""
    keepalive(60)
    heavy = {"torch", "transformers", "sqlalchemy", "pydantic", "typer"} & set(sys.modules)
    append_line(file, ",".join(sorted(heavy)) or "light")
    stop.wait()


def watch(
    *,
    file: Path,
    camera: Camera,
    locations: StorageLocations,
    stop: threading.Event,
    keepalive: KeepaliveCallback,
) -> None:
    """Watch a camera until a file `enough` is beside `file`; say what it loaded since the fork."""
    enough = threading.Event()

    def heard(seconds: float) -> None:
        keepalive(seconds)
        if stop.is_set() or file.with_name("enough").exists():
            enough.set()

    watch_camera(camera=camera, locations=locations, stop=enough, keepalive=heard)
    keepalive(60)
    # What the fork server froze is not among them.
    loaded = {each.__name__ for each in gc.get_objects() if isinstance(each, ModuleType)}
    append_line(file, ",".join(sorted(loaded - {__name__, "__mp_main__"})) or "nothing")
    stop.wait()
