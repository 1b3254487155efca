"""VLC's RTSP server, which knows UDP alone, in a process of its own.

VLC refuses to run as root, and is run as `nobody` then. Debian: vlc-bin, vlc-plugin-base.
"""

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest
from ingest_fixtures import free_port, wait_until

NEEDS = "vlc-bin vlc-plugin-base"
_ORDINARY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")


@dataclass(slots=True, kw_only=True)
class VlcServer:
    """Serve a clip that `nobody` may read; to be stopped, killed and restarted."""

    clip: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/cam"

    def start(self) -> None:
        sink = f"#rtp{{sdp={self.url}}}"
        command = ["vlc", "-I", "dummy", "--quiet", str(self.clip), "--sout", sink, "--loop"]
        if os.geteuid() == 0:
            command = [*_ORDINARY, *command]
        home = {**os.environ, "HOME": str(self.clip.parent)}
        self.process = subprocess.Popen(
            command, env=home, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._listens, 20)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            with self.process as process:
                process.kill()
            self.process = None

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


@pytest.fixture(scope="session", name="vlc")
def need_vlc() -> None:
    """Skip, naming the Debian packages, where VLC is not; in CI that is a failure."""
    if shutil.which("vlc"):
        return
    missing = f"VLC's server needs: apt-get install {NEEDS}"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)
