"""One `longwatch alert` as a process, and findings that are given to it as they come."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deploy_fixtures import ROOT
from storage_fixtures import a_finding, wait_for

from deploy.assemble import rules_of
from deploy.config_file import read_settings
from storage.kafka_log import KafkaLog
from storage.log import FINDINGS
from storage.records import Finding
from storage.wire import encode_finding

CAMERAS = [f"camera-{n}" for n in range(8)]
PAUSE = 0.2
"""Seconds between two findings."""
SCORES = (0.9, 0.9, 0.75, 0.1)
"""What a camera's findings say, again and again: an incident that opens, lasts and resolves."""


class Generation:
    """One `longwatch alert` as a process, and all that it started."""

    def __init__(self, number: int, settings: Path, code: Path = ROOT) -> None:
        self.number = number
        self.said_file = settings.with_suffix(".log")
        (rule,) = rules_of(read_settings(settings))
        self.version = rule.version
        with self.said_file.open("wb") as said:
            # The folder of the code comes first on the path of who is run with -m.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy.cli", "alert", "-c", str(settings)],
                stderr=said,
                cwd=code,
                env=os.environ | {"PYTHONPATH": str(code)},
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.said_file.read_text()

    def wait_until_said(self, words: str, seconds: float = 60.0) -> None:
        def is_said() -> bool:
            assert self.process.poll() is None, f"alert died by itself:\n{self.said}"
            return words in self.said

        wait_for(is_said, seconds)

    def signal(self, number: signal.Signals) -> None:
        """Let all its processes have a signal."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """End as an init system does; raises AssertionError where that is not a good end."""
        self.process.terminate()
        assert self.process.wait(30) == 0, self.said
        assert "does not stop, killed" not in self.said, self.said

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait(30)


class Giver:
    """An analyzer's findings, as they come: each ends at the instant at which it is given."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        self._stop = threading.Event()
        self.given: dict[str, list[Finding]] = {camera: [] for camera in CAMERAS}
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def all(self) -> list[Finding]:
        return [finding for findings in self.given.values() for finding in findings]

    def end(self) -> None:
        """End, each camera with a finding that leaves nothing open."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            for camera in CAMERAS:
                self._give(camera, SCORES[-1])

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(PAUSE):
            nth, camera = divmod(number, len(CAMERAS))
            self._give(CAMERAS[camera], SCORES[(nth + camera) % len(SCORES)])
            number += 1

    def _give(self, camera: str, score: float) -> None:
        findings, now = self.given[camera], datetime.now(UTC)
        start = findings[-1].end if findings else now - timedelta(seconds=1)
        made = replace(
            a_finding(0, score, camera),
            window_id=f"{camera}@{start.isoformat(timespec='microseconds')}",
            start=start,
            end=now,
            since=start,
        )
        self._log.append(FINDINGS, camera, encode_finding(made))
        findings.append(made)
