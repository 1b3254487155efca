"""When a lost camera is tried again, and how long it may be silent, from what it did before."""

from collections import Counter, deque
from statistics import median

from ingest.camera import Camera
from ingest.errors import Loss
from storage.backoff import LONGEST, SHORTEST, backoff

LONGEST_WELL = 4.0
"""Seconds between two tries of a camera that was well: with those that a connection may take
(`preflight.CONNECT`), it is tried again within 10 s of its return."""
_LOG_IN = (SHORTEST, 60.0, 300.0, 900.0)
_SETTINGS = (30.0, 60.0)
_STEPS = 3
_MEASURED = 5
"""How many of the last steps between pictures are kept."""
_UNMEASURED = 30.0
"""Seconds of silence behind a first picture: how slow the camera is, is not known yet."""
LONGEST_PATIENCE = 90.0


def delay_after(kind: Loss, failures: int, chance: float, *, was_well: bool) -> float:
    """Return the seconds until the next try; `failures` of this kind since its last picture.

    `chance` is in 0..1. A log-in is tried again soon once, then seldom: cameras lock out who tries
    a wrong password again and again, and count on while they do.
    """
    match kind:
        case Loss.SILENT:
            return 0.0
        case Loss.LOG_IN:
            return _LOG_IN[min(failures, len(_LOG_IN)) - 1]
        case Loss.SETTINGS:
            return _SETTINGS[min(failures, len(_SETTINGS)) - 1]
        case Loss.GONE:
            return backoff(failures, chance, LONGEST_WELL if was_well else LONGEST)


class History:
    """What a camera did so far, across all its connections."""

    def __init__(self, camera: Camera) -> None:
        self._patience = camera.patience
        self._steps: deque[float] = deque(maxlen=_MEASURED)
        self._last: float | None = None
        self._losses: Counter[Loss] = Counter()
        self.was_well = False
        """Whether it gave pictures once."""

    @property
    def patience(self) -> float:
        """Return for how many seconds the stream may be silent once it gave a picture."""
        if not self._steps:
            return max(self._patience, _UNMEASURED)
        measured = min(LONGEST_PATIENCE, _STEPS * median(self._steps))
        return max(self._patience, measured)

    def connected(self) -> None:
        """Take that a new connection begins: no step leads over from the last one."""
        self._last = None

    def gave_picture(self, at: float) -> bool:
        """Take a picture, in steady seconds; return whether it is the first of a connection."""
        is_first = self._last is None
        if self._last is not None:
            self._steps.append(at - self._last)
        self._last = at
        self.was_well = True
        self._losses.clear()
        return is_first

    @property
    def failures(self) -> int:
        """Return how often it was lost since its last picture."""
        return self._losses.total()

    def lost(self, kind: Loss, chance: float) -> float:
        """Take that the camera was lost; return the seconds until the next try."""
        self._losses[kind] += 1
        return delay_after(kind, self._losses[kind], chance, was_well=self.was_well)
