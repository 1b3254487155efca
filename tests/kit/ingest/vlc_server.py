"""VLC's RTSP server, which knows UDP alone, in a process of its own.

VLC refuses to run as root, and is run as `nobody` then. Debian: vlc-bin, vlc-plugin-base.
"""

import os
import shutil
import socket
import subprocess
from contextlib import suppress

import pytest

from kit.ingest.fixtures import ServerProcess
from kit.waiting import wait_for

NEEDS = "vlc-bin vlc-plugin-base"
_ORDINARY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")


class VlcServer(ServerProcess):
    """Serve a clip that `nobody` may read."""

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
        wait_for(self._listens, 20)

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
