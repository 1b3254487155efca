"""Write windows and claims to the log."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from ingest.recording.claim_sender import ClaimSender
from ingest.recording.coverage import CoverageTracker
from ingest.timing.camera_clock import CameraClock, choose_clock
from ingest.timing.host_clock import HostClock
from ingest.windows import Shot, scene_spans
from storage.errors import StorageBlocked, TooLarge
from storage.log.log import Log
from storage.records.claims import Claim
from storage.records.records import Window


class WindowWriter:
    """Write one camera's windows, each with the claims about it and the time before it."""

    def __init__(self, camera: str, log: Log, host: HostClock, coverage: CoverageTracker) -> None:
        self._camera = camera
        self._host = host
        self._coverage = coverage
        self._sender = ClaimSender(log)
        self._clock = CameraClock(camera)
        self._after_gap = True

    def mark_gap(self) -> None:
        """Mark that the next window does not follow the last one."""
        self._after_gap = True

    def write(self, shots: Sequence[Shot]) -> str:
        """Write a window of shots; return why the log refuses it, else an empty text."""
        host = self._host.at(0.0)
        offsets = [
            each.camera_time - each.at - host for each in shots if each.camera_time is not None
        ]
        draft = Window(
            camera=self._camera,
            stills=tuple(shot.still(host) for shot in shots),
            clock=choose_clock(offsets),
            after_gap=self._after_gap,
        )
        window, before = self._coverage.cover_window(draft)
        spans = scene_spans(shots, draft)
        scene_claims = self._coverage.scene_claims(spans, replace(draft, covers=window.covers))
        return self._append(self._clock.convert(window), before, scene_claims)

    def send_claims(self, claims: Iterable[Claim]) -> None:
        """Write claims alone; while storage is blocked, they stay queued."""
        with suppress(StorageBlocked):
            self._sender.send(claims)

    def _append(self, window: Window, before: list[Claim], scene_claims: list[Claim]) -> str:
        """Append a window, and the claims about it and the time before it.

        Claims of the time before come first, in case a broker stores only some messages. A fast
        analyzer would otherwise move coverage past that time, and nobody could claim it any more.
        """
        claims = [*scene_claims, *self._coverage.waiting_claims(window)]
        try:
            self._sender.append(window, before, claims)
        except (StorageBlocked, TooLarge) as full:
            reason = f"the log takes no windows: {full}"
            self.mark_gap()
            self.send_claims([*scene_claims, *self._coverage.lost_claims(window, reason)])
            return reason
        self._clock.record_appended(window)
        self._after_gap = False
        return ""
