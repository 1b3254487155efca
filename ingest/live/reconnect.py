"""Decide when to retry a lost camera, and how long it may be silent."""

from collections import Counter, deque
from statistics import median

from ingest.camera import Camera
from ingest.errors import LossKind
from storage.backoff import MAX_SECONDS, MIN_SECONDS, backoff_seconds

MAX_DELAY_AFTER_SUCCESS = 4.0
"""Seconds between two tries of a camera that has worked. With `preflight.CONNECT_TIMEOUT` a try
follows within 10 s of its return."""
_LOGIN_DELAYS = (MIN_SECONDS, 60.0, 300.0, 900.0)
_SETTINGS_DELAYS = (30.0, 60.0)
_STALL_INTERVALS = 3
_INTERVAL_COUNT = 5
"""Recent intervals between pictures."""
_UNMEASURED_TIMEOUT = 30.0
"""Seconds of silence after the first picture, while the frame rate is unknown."""
MAX_STALL_TIMEOUT = 90.0


def retry_delay(kind: LossKind, failures: int, jitter: float, *, has_worked: bool) -> float:
    """Return the seconds until the next try, after `failures` of this kind since the last picture.

    `jitter` is in 0..1. A log-in gets one early retry, then rare ones: cameras lock out a client
    that repeats a wrong password, and keep counting meanwhile.
    """
    match kind:
        case LossKind.SILENT:
            return 0.0
        case LossKind.LOG_IN:
            return _LOGIN_DELAYS[min(failures, len(_LOGIN_DELAYS)) - 1]
        case LossKind.SETTINGS:
            return _SETTINGS_DELAYS[min(failures, len(_SETTINGS_DELAYS)) - 1]
        case LossKind.GONE:
            longest = MAX_DELAY_AFTER_SUCCESS if has_worked else MAX_SECONDS
            return backoff_seconds(failures, jitter, longest)


class ConnectionHistory:
    """The pictures and losses of a camera, across all its connections."""

    def __init__(self, camera: Camera) -> None:
        self._min_stall_timeout = camera.stall_timeout
        self._intervals: deque[float] = deque(maxlen=_INTERVAL_COUNT)
        self._last_picture_at: float | None = None
        self._losses: Counter[LossKind] = Counter()
        self.has_worked = False
        """Whether it has ever sent a picture."""

    @property
    def stall_timeout(self) -> float:
        """Return for how many seconds the stream may be silent after a picture."""
        if not self._intervals:
            return max(self._min_stall_timeout, _UNMEASURED_TIMEOUT)
        measured = min(MAX_STALL_TIMEOUT, _STALL_INTERVALS * median(self._intervals))
        return max(self._min_stall_timeout, measured)

    def start_connection(self) -> None:
        """Start a connection: the time since the last one is no interval."""
        self._last_picture_at = None

    def record_picture(self, at: float) -> bool:
        """Record a picture, in steady seconds; return whether it is the connection's first."""
        is_first = self._last_picture_at is None
        if self._last_picture_at is not None:
            self._intervals.append(at - self._last_picture_at)
        self._last_picture_at = at
        self.has_worked = True
        self._losses.clear()
        return is_first

    @property
    def failures(self) -> int:
        """Return the number of losses since its last picture."""
        return self._losses.total()

    def record_loss(self, kind: LossKind, jitter: float) -> float:
        """Record a loss; return the seconds until the next try."""
        self._losses[kind] += 1
        return retry_delay(kind, self._losses[kind], jitter, has_worked=self.has_worked)
