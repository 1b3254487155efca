"""What decides how much memory all cameras need; loads no torch."""

from dataclasses import dataclass, field
from datetime import timedelta

from analyzer.plan import EPOCH, MemoryPlan, WindowShape
from analyzer.settings import MemorySettings, ModelSettings

SHORTEST = timedelta(seconds=16)
"""No horizon can be set shorter than this."""

ANY_ASK, ANY_REACH = ("Is anything unusual happening?",), (timedelta.max,)
"""What people may ask where there is no standing question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What decides how much memory is needed; it holds no secrets.

    `shortest` is the shortest horizon that the cameras and the questions allow, `asks` the
    questions of the camera that is asked most, `reaches` how far back any of them look.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    cameras: int = 1
    shapes: tuple[WindowShape, ...] = (WindowShape(stills=16, length=timedelta(seconds=16)),)
    shortest: timedelta = SHORTEST
    asks: tuple[str, ...] = ANY_ASK
    reaches: tuple[timedelta, ...] = ANY_REACH


def plan_of(settings: MemorySettings) -> MemoryPlan:
    """Return what a camera's memory holds."""
    return MemoryPlan(
        horizon=settings.horizon,
        focus_horizon=settings.focus_horizon or settings.horizon,
        recent=settings.recent,
        focus=settings.focus,
        compression=settings.compression,
        corrected=settings.mass == "corrected",
        int8=settings.int8,
        epoch=settings.epoch or max(EPOCH, 2 * settings.horizon),
    )
