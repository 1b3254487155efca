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

from deploy.config.assemble import build_rules
from deploy.config.settings_file import read_settings
from kit.deploy.command import ROOT
from kit.storage.fixtures import a_finding
from kit.waiting import wait_for
from storage.log.kafka.log import KafkaLog
from storage.records.records import Finding
from storage.records.topics import FINDINGS
from storage.records.wire import encode_finding

CAMERAS = [f"camera-{n}" for n in range(8)]
PAUSE = 0.2
"""Seconds between two findings."""
SCORES = (0.9, 0.9, 0.75, 0.1)
"""What a camera's findings say, again and again: an incident that opens, lasts and resolves."""


class AlertProcess:
    """One `longwatch alert` as a process, and all that it started."""

    def __init__(self, number: int, settings: Path, code: Path = ROOT) -> None:
        self.number = number
        self.stderr_file = settings.with_suffix(".log")
        (rule,) = build_rules(read_settings(settings))
        self.version = rule.version
        with self.stderr_file.open("wb") as stderr:
            # The folder of the code comes first on the path of who is run with -m.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy", "alert", "-c", str(settings)],
                stderr=stderr,
                cwd=code,
                env=os.environ | {"PYTHONPATH": str(code)},
                start_new_session=True,
            )

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text()

    def wait_for_line(self, words: str, seconds: float = 60.0) -> None:
        def is_said() -> bool:
            assert self.process.poll() is None, f"alert died by itself:\n{self.stderr}"
            return words in self.stderr

        wait_for(is_said, seconds)

    def signal(self, number: signal.Signals) -> None:
        """Let all its processes have a signal."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """End as an init system does; raises AssertionError where that is not a good end."""
        self.process.terminate()
        assert self.process.wait(30) == 0, self.stderr
        assert "does not stop, killed" not in self.stderr, self.stderr

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait(30)


class LiveFindingProducer:
    """An analyzer's findings, as they come: each ends at the instant at which it is given."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        self._stop = threading.Event()
        self.produced: dict[str, list[Finding]] = {camera: [] for camera in CAMERAS}
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def findings(self) -> list[Finding]:
        return [finding for findings in self.produced.values() for finding in findings]

    def stop(self) -> None:
        """End, each camera with a finding that leaves nothing open."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            for camera in CAMERAS:
                self._produce(camera, SCORES[-1])

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(PAUSE):
            nth, camera = divmod(number, len(CAMERAS))
            self._produce(CAMERAS[camera], SCORES[(nth + camera) % len(SCORES)])
            number += 1

    def _produce(self, camera: str, score: float) -> None:
        findings, now = self.produced[camera], datetime.now(UTC)
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
