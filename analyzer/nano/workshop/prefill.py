"""One window through a model, without a memory."""

from collections.abc import Sequence

from analyzer.kv.arena.arena import AnyChunk
from analyzer.kv.encoded import Background
from analyzer.models.messages import WindowRun, WindowToRemember
from analyzer.models.runner import ModelRunner


def encode_and_prefill(
    runner: ModelRunner,
    jpegs: Sequence[bytes],
    seconds: Sequence[float],
    background: Background | None,
    context: Sequence[AnyChunk],
) -> tuple[AnyChunk, Background | None]:
    """Encode and prefill one window; `seconds` are the times of its stills."""
    ((encoded,),) = runner.encode([WindowRun([jpegs], background)])
    group_seconds = seconds[:: runner.model.config.stills_per_group]
    (chunk,) = runner.prefill([WindowToRemember(encoded.tokens_GVE, group_seconds, context)])
    return chunk, encoded.background
