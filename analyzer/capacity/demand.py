"""The inputs of a capacity computation; loads no torch."""

from dataclasses import dataclass, field
from datetime import timedelta

from analyzer.kv.budget import DEFAULT_EPOCH, MemoryPlan, WindowShape
from analyzer.settings import MemorySettings, ModelSettings

MIN_HORIZON = timedelta(seconds=16)
"""The shortest horizon that the settings accept."""

DEFAULT_ASKS, DEFAULT_LOOK_BACKS = ("Is anything unusual happening?",), (timedelta.max,)
"""The assumed question of people if there is no standing question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryDemand:
    """The settings and shapes that determine the memory of a site; contains no secrets.

    `min_horizon` is the shortest horizon that cameras and questions allow, `asks` the questions
    of the camera with the most, `look_backs` the look-backs of all questions.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    cameras: int = 1
    shapes: tuple[WindowShape, ...] = (WindowShape(stills=16, length=timedelta(seconds=16)),)
    min_horizon: timedelta = MIN_HORIZON
    asks: tuple[str, ...] = DEFAULT_ASKS
    look_backs: tuple[timedelta, ...] = DEFAULT_LOOK_BACKS


def plan_of(settings: MemorySettings) -> MemoryPlan:
    """Return the plan of a camera's memory, with the defaults that depend on other settings."""
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
