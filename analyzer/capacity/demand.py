"""What decides how much memory all cameras need; loads no torch."""

from dataclasses import dataclass, field
from datetime import timedelta

from analyzer.kv.budget import DEFAULT_EPOCH, MemoryPlan, WindowShape
from analyzer.settings import MemorySettings, ModelSettings

MIN_HORIZON = timedelta(seconds=16)
"""No horizon can be set shorter than this."""

DEFAULT_ASKS, DEFAULT_LOOK_BACKS = ("Is anything unusual happening?",), (timedelta.max,)
"""What people may ask where there is no standing question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryDemand:
    """What decides how much memory is needed; it holds no secrets.

    `shortest` is the shortest horizon that the cameras and the questions allow, `asks` the
    questions of the camera that is asked most, `reaches` how far back any of them look.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    cameras: int = 1
    shapes: tuple[WindowShape, ...] = (WindowShape(stills=16, length=timedelta(seconds=16)),)
    min_horizon: timedelta = MIN_HORIZON
    asks: tuple[str, ...] = DEFAULT_ASKS
    look_backs: tuple[timedelta, ...] = DEFAULT_LOOK_BACKS


def plan_of(settings: MemorySettings) -> MemoryPlan:
    """Return what a camera's memory holds."""
    return MemoryPlan(
        horizon=settings.horizon,
        focus_horizon=settings.focus_horizon or settings.horizon,
        recent=settings.recent,
        focus=settings.focus,
        compression=settings.compression,
        proportional_attention=settings.mass == "corrected",
        int8=settings.int8,
        epoch=settings.epoch or max(DEFAULT_EPOCH, 2 * settings.horizon),
    )
