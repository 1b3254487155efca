"""What happens to one simulated camera: its frames, its network, this process, the clocks."""

from dataclasses import dataclass, field

from ingest.camera import Camera

EPOCH = 1_800_000_000.0
"""When the simulated time begins, in seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPeriod:
    """A span of true time in which something is wrong."""

    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkStall(FaultPeriod):
    """The network delivers nothing; then all that waits, unless it is lost."""

    drops_frames: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraOutage(FaultPeriod):
    """The camera is away; `is_settled` says that the connection ends at once, not by silence."""

    is_announced: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PausedProcess(FaultPeriod):
    """Our process does not run; what comes in its first `kept` seconds is read behind it.

    The thread that ticks runs `notices_after` seconds after the one that reads.
    """

    buffered_seconds: float = 3.0
    tick_delay: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowMachine(FaultPeriod):
    """The machine takes `factor` times as long for a frame as the camera."""

    factor: float = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockStep:
    """A clock is set at an instant of true time, by so many seconds."""

    at: float
    by: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WallClock:
    """A wall clock: seconds since the epoch at an instant of true time."""

    offset: float = 0.0
    drift: float = 0.0
    steps: tuple[ClockStep, ...] = ()

    def at(self, true: float) -> float:
        set_by = sum(step.by for step in self.steps if step.at <= true)
        return EPOCH + self.offset + true * (1 + self.drift) + set_by


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFrame:
    """A frame as the camera sent it; `is_exact` says that its stamp tells the truth."""

    number: int
    true_time: float
    pts: float | None
    is_exact: bool
    is_key: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraPlan:
    """All that happens in one run."""

    camera: Camera
    seconds: float
    frames: tuple[SentFrame, ...]
    stamps: str = "good"
    delay: float = 0.05
    jitter: float = 0.02
    connect_seconds: float = 0.3
    burst: bool = False
    burst_step: float = 0.0
    """Seconds between the frames of a burst."""
    periods: tuple[FaultPeriod, ...] = ()
    host: WallClock = field(default_factory=WallClock)
    camera_wall: WallClock | None = None
    seed: int = 0

    @property
    def window(self) -> float:
        """Return the length of a window, in seconds."""
        return self.camera.stills_per_window / self.camera.fps

    @property
    def interval(self) -> float:
        """Return the usual time between two frames."""
        return self.seconds / len(self.frames)


def frames(
    seconds: float, rate: float, *, keyframes: float = 2.0, start: float = 0.0
) -> tuple[SentFrame, ...]:
    """Return frames at a rate, with true stamps."""
    every = max(1, round(keyframes * rate))
    return tuple(
        SentFrame(
            number=n,
            true_time=start + n / rate,
            pts=start + n / rate,
            is_exact=True,
            is_key=n % every == 0,
        )
        for n in range(int((seconds - start) * rate))
    )
