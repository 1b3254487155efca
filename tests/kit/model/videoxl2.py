"""The Video-XL-2 in a runner, for what concerns its parts and weights."""

from analyzer.models.runner import ModelRunner
from analyzer.models.videoxl2.model import VideoXL2


def videoxl2_of(runner: ModelRunner) -> VideoXL2:
    """Return the model of a runner, which must be a Video-XL-2."""
    assert isinstance(runner.model, VideoXL2)
    return runner.model
