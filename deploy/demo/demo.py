"""Run the whole pipeline on one machine, with a camera and a receiver that the package ships."""

import base64
import logging
import math
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from deploy.config.data_dir import EVIDENCE_FOLDER, lock_data_dir, write_private
from deploy.config.environment import drop_secrets
from deploy.config.settings import LongwatchSettings
from deploy.config.settings_file import SettingsFile
from deploy.demo import camera_server
from deploy.demo.camera_server import CameraServerRole
from deploy.demo.monitor import DemoMonitor, DemoSummary
from deploy.demo.webhook_server import WebhookServer
from deploy.errors import CommandFailed
from deploy.logs.setup import LoggingConfig
from deploy.runtime.process import ProcessRole
from deploy.runtime.role_builder import build_alert_role, build_analyze_role, build_ingest_role
from deploy.runtime.supervisor import POLL_SECONDS, Supervisor
from storage.records.records import Incident

SETTINGS_FILE = "demo.yaml"
SETTINGS = Path(__file__).parents[1] / SETTINGS_FILE
"""Template of the demo's settings; a run fills in the URLs of camera and receiver."""
STARTUP_SECONDS, DRAIN_SECONDS, STILLS_SECONDS = 120.0, 20.0, 5.0
"""Time limits in seconds: for the camera to serve and again for the first window to arrive, for
the last answers and deliveries, and for the stills of the incidents."""

_INTRODUCTION = """\
Watching a clip of a street, which an RTSP server plays in a loop. Each line shows when a window
ended, the question, and the score of its answer: 0 is no, 1 is yes. The data are in {data}.
"""


def run_demo(
    data: Path, seconds: float | None, anomaly: bool, console: Console, stop: threading.Event
) -> DemoSummary:
    """Watch a clip for `seconds` from its first still on, without limit if None, or until `stop`.

    Raises DataInUse, and CommandFailed if no window arrives or none is answered.
    """
    if find_spec("aio_rtsp_toolkit") is None:
        raise CommandFailed("the demo needs an RTSP server: pip install 'longwatch[demo]'")
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    camera = f"demo-{datetime.now(UTC):%H%M%S}"
    webhook_server, port = WebhookServer(secret), _free_port()
    url = camera_server.camera_url(port, anomaly=anomaly)
    with lock_data_dir(data), webhook_server.running():
        settings = _write_settings(data, camera, url, webhook_server)
        monitor = DemoMonitor(data, camera, webhook_server, console)
        supervisor = Supervisor(
            [
                CameraServerRole(
                    name="demo-camera", port=port, logging=LoggingConfig(level=logging.WARNING)
                ),
                build_analyze_role(settings, logging.WARNING),
                build_alert_role(settings, logging.WARNING),
            ],
            data=data,
        )
        console.print(_INTRODUCTION.format(data=data))
        demo_run = _DemoRun(supervisor, monitor, stop)
        try:
            demo_run.run(build_ingest_role(settings, camera, logging.WARNING), port, seconds)
        finally:
            supervisor.stop_children()
        monitor.poll()
    summary = monitor.summary()
    if not summary.findings and not stop.is_set():
        raise CommandFailed("no question was answered: see the lines above")
    for incident in summary.incidents:
        console.print(_describe_evidence(data, incident), soft_wrap=True)
    return summary


def _describe_evidence(data: Path, incident: Incident) -> str:
    folder = data / EVIDENCE_FOLDER / str(incident.id)
    stills = f"stills of {incident.rule}: {folder}\n" if folder.is_dir() else ""
    return f"{stills}longwatch incidents show {str(incident.id)[:8]} --data {data}"


def _write_settings(
    data: Path, camera: str, url: str, webhook_server: WebhookServer
) -> LongwatchSettings:
    """Write the demo's settings to the data folder and return them."""
    text = SETTINGS.read_text().format(
        camera=camera, url=url, hook=webhook_server.url, secret=webhook_server.secret
    )
    write_private(data / SETTINGS_FILE, text)
    file = SettingsFile.read(data / SETTINGS_FILE)
    drop_secrets(file)
    return file.settings.model_copy(update={"data": data})


class _DemoRun:
    """The steps of a demo, with the supervisor and the monitor polled meanwhile."""

    def __init__(self, supervisor: Supervisor, monitor: DemoMonitor, stop: threading.Event) -> None:
        self._supervisor = supervisor
        self._monitor = monitor
        self._stop = stop

    def run(self, camera: ProcessRole, port: int, seconds: float | None) -> None:
        """Wait for the camera, watch it, then wait for its answers and deliveries."""
        self._wait_or_fail("the demo's camera accepts no connection", lambda: _is_listening(port))
        self._supervisor.add(camera)
        self._wait_or_fail(
            "no window arrives from the camera", lambda: self._monitor.started_at is not None
        )
        self._watch_for(math.inf if seconds is None else seconds)
        self._supervisor.stop_children(camera.name)
        self._wait_until(self._monitor.is_settled, DRAIN_SECONDS)
        self._wait_until(self._monitor.has_stills, STILLS_SECONDS)

    def _watch_for(self, seconds: float) -> None:
        started_at = self._monitor.started_at or time.monotonic()
        self._wait_until(lambda: time.monotonic() >= started_at + seconds, seconds)

    def _wait_or_fail(self, failure: str, condition: Callable[[], bool]) -> None:
        if not self._wait_until(condition, STARTUP_SECONDS) and not self._stop.is_set():
            raise CommandFailed(f"{failure} within {STARTUP_SECONDS:.0f} s: see the lines above")

    def _wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Poll until the condition is true; return False if time is up or `stop` is set."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._stop.is_set():
            self._supervisor.run_once()
            self._monitor.poll()
            if condition():
                return True
            self._stop.wait(POLL_SECONDS)
        return False


def _free_port() -> int:
    with socket.create_server((camera_server.HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((camera_server.HOST, port)) == 0
