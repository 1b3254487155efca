"""The whole path on one machine, with a camera and a receiver that the package brings along."""

import base64
import logging
import math
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from deploy import camera_server
from deploy.assemble import alerts_role, analyzer_role, camera_role
from deploy.config_file import SettingsFile
from deploy.daemon import Role
from deploy.data import EVIDENCE_FOLDER, data_directory, write_private
from deploy.environment import drop_secrets
from deploy.errors import Failed
from deploy.logs import Logging
from deploy.onlooker import Onlooker, Seen
from deploy.receiver import Receiver
from deploy.settings import Settings
from deploy.supervisor import TICK, Supervisor
from storage.records import Incident

SETTINGS_FILE = "demo.yaml"
SETTINGS = Path(__file__).parent / SETTINGS_FILE
"""What a demo asks and when it opens incidents; where camera and receiver are is filled in."""
SCENE = 90.0
"""Seconds of the scene of a demo without end."""
LONGEST_SCENE = 180.0
"""A longer demo shows its scene again, because filming takes time."""
START_UP, DRAIN, STILLS = 120.0, 20.0, 5.0
"""Seconds until the camera must serve, until a window must be there, to deliver at the end, and
until the stills of what was opened must be there."""

_INTRODUCTION = """\
Filming a street of {scene:.0f} s, then watching it as an RTSP camera. One line tells when a window
ended, what was asked about it, and how much the answer is yes (0 to 1). The data lie in {data}.
"""


def demo(
    data: Path, seconds: float | None, anomaly: bool, console: Console, stop: threading.Event
) -> Seen:
    """Watch a rendered scene for so many seconds from its first still on, or until `stop`.

    Raises DataInUse, and Failed when no window comes or none is answered.
    """
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    camera = f"demo-{datetime.now(UTC):%H%M%S}"
    receiver, port = Receiver(secret), _free_port()
    length = min(seconds or SCENE, LONGEST_SCENE)
    with data_directory(data), receiver.running():
        settings = _settings(data, camera, port, receiver)
        onlooker = Onlooker(data, camera, receiver, console)
        supervisor = Supervisor(
            [
                _server_role(port, length, anomaly),
                analyzer_role(settings, logging.WARNING),
                alerts_role(settings, logging.WARNING),
            ],
            data=data,
        )
        console.print(_INTRODUCTION.format(data=data, scene=length))
        show = _Show(supervisor, onlooker, stop)
        try:
            show.run(camera_role(settings, camera, logging.WARNING), port, seconds)
        finally:
            supervisor.end()
        onlooker.look()
    seen = onlooker.seen()
    if not seen.findings and not stop.is_set():
        raise Failed("nothing was answered: see the lines above")
    for incident in seen.incidents:
        console.print(_how_to_look(data, incident), soft_wrap=True)
    return seen


def _how_to_look(data: Path, incident: Incident) -> str:
    folder = data / EVIDENCE_FOLDER / str(incident.id)
    stills = f"stills of {incident.rule}: {folder}\n" if folder.is_dir() else ""
    return f"{stills}longwatch incidents show {str(incident.id)[:8]} --data {data}"


def _settings(data: Path, camera: str, port: int, receiver: Receiver) -> Settings:
    """Write the settings to the data, for whoever wants to see them, and read them."""
    url = camera_server.url_of(port)
    text = SETTINGS.read_text()
    text = text.format(camera=camera, url=url, hook=receiver.url, secret=receiver.secret)
    write_private(data / SETTINGS_FILE, text)
    file = SettingsFile.read(data / SETTINGS_FILE)
    drop_secrets(file)
    return file.settings.model_copy(update={"data": data})


class _Show:
    """The course of a demo."""

    def __init__(self, supervisor: Supervisor, onlooker: Onlooker, stop: threading.Event) -> None:
        self._supervisor = supervisor
        self._onlooker = onlooker
        self._stop = stop

    def run(self, camera: Role, port: int, seconds: float | None) -> None:
        """Wait for the camera, watch it, and let what it saw be answered and delivered."""
        self._expect("the demo's camera does not serve", lambda: _listens(port))
        self._supervisor.add(camera)
        self._expect("no window comes from the camera", lambda: self._onlooker.began is not None)
        self._watch_for(math.inf if seconds is None else seconds)
        self._supervisor.end(camera.name)
        self._until(self._onlooker.is_settled, DRAIN)
        self._until(self._onlooker.has_stills, STILLS)

    def _watch_for(self, seconds: float) -> None:
        began = self._onlooker.began or time.monotonic()
        self._until(lambda: time.monotonic() >= began + seconds, seconds)

    def _expect(self, otherwise: str, condition: Callable[[], bool]) -> None:
        if not self._until(condition, START_UP) and not self._stop.is_set():
            raise Failed(f"{otherwise} within {START_UP:.0f} s: see the lines above")

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Tend and look until the condition holds; False when time is up or `stop` is set."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._stop.is_set():
            self._supervisor.tend()
            self._onlooker.look()
            if condition():
                return True
            self._stop.wait(TICK)
        return False


def _server_role(port: int, seconds: float, anomaly: bool) -> Role:
    return Role(
        name="demo-camera",
        work=camera_server.serve,
        arguments={"port": port, "seconds": seconds, "anomaly": anomaly},
        logging=Logging(level=logging.WARNING),
    )


def _free_port() -> int:
    with socket.create_server((camera_server.HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((camera_server.HOST, port)) == 0
