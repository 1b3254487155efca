"""A film as an RTSP camera sends it, by GStreamer's server, in a process of its own."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEBIAN_PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).parent.parent / "kit/ingest/rtsp_server.py"


@contextmanager
def serving(film: Path, fps: int) -> Iterator[str]:
    """Serve a film, and give its url; it begins anew once nobody watches any more."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [DEBIAN_PYTHON, str(SERVER), str(port), str(film), "--fps", str(fps)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            if server.stdout is None or server.stdout.readline() != b"ready\n":
                raise SystemExit("the RTSP server needs the packages named in .ci/run")
            yield f"rtsp://127.0.0.1:{port}/cam"
        finally:
            server.kill()
