"""What half precision costs, and how it is kept from costing more."""

from statistics import fmean

import pytest
import torch

from analyzer.kv.cache import KVChunk
from analyzer.models.loading import load_model
from analyzer.models.runner import ModelRunner
from analyzer.models.videoxl2 import prompt
from analyzer.nano.workshop.lessons.lessons import ANOMALY_ASKS, KIND_ASKS
from analyzer.nano.workshop.prefill import encode_and_prefill
from analyzer.nano.workshop.scenes import demo_scene
from kit.model.chunks import plain_chunk
from kit.model.text_logits import text_logits

ASKS = [*ANOMALY_ASKS, *(ask for asks in KIND_ASKS.values() for ask in asks)]


@pytest.fixture(scope="module", name="exact")
def load_exact() -> ModelRunner:
    return load_model("nano", "cpu")


@pytest.fixture(scope="module", name="half")
def load_half() -> ModelRunner:
    return load_model("nano", "cpu", "bfloat16")


def remembered(runner: ModelRunner) -> list[KVChunk]:
    """Return two windows of the demo, in which a fire begins, as a model remembers them."""
    scene, held = demo_scene(90, True), list[KVChunk]()
    for start in (32, 48):
        jpegs = [scene.jpeg(float(start + s), 128, 85) for s in range(16)]
        chunk, _ = encode_and_prefill(
            runner, jpegs, [float(start + s) for s in range(16)], None, held
        )
        held.append(plain_chunk(chunk))
    return held


@pytest.mark.slow
@torch.inference_mode()
def test_margins_have_more_values_than_half_precision_logits(
    exact: ModelRunner, half: ModelRunner
) -> None:
    true = exact.margins(ASKS, remembered(exact))
    held = remembered(half)
    ours = half.margins(ASKS, held)
    cache = half.model.cache((half.prefix, *held))
    logits = text_logits(
        half.model, [half.token_ids(prompt.question_text(ask)) for ask in ASKS], cache
    )
    plain = (logits[:, half.yes_id] - logits[:, half.no_id]).tolist()
    assert len(ASKS) > 300
    assert len(set(plain)) < 0.5 * len(ASKS)
    assert len(set(ours)) == len(ASKS)

    def error(margins: list[float]) -> float:
        return fmean(abs(a - b) for a, b in zip(margins, true, strict=True))

    assert error(ours) < 0.7 * error(plain)
