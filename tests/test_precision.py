"""What half precision costs, and how it is kept from costing more."""

from statistics import fmean

import pytest
import torch

from analyzer.nano.lessons import ABOUT, ANYTHING
from analyzer.nano.scenes import demo_scene
from analyzer.videoxl2 import prompt
from analyzer.videoxl2.checkpoint import load_model
from analyzer.videoxl2.kv import KVChunk
from analyzer.videoxl2.speaker import Speaker

ASKS = [*ANYTHING, *(ask for asks in ABOUT.values() for ask in asks)]


@pytest.fixture(scope="module", name="exact")
def load_exact() -> Speaker:
    return load_model("nano", "cpu")


@pytest.fixture(scope="module", name="half")
def load_half() -> Speaker:
    return load_model("nano", "cpu", "bfloat16")


def remembered(speaker: Speaker) -> list[KVChunk]:
    """Return two windows of the demo, in which a fire begins, as a model remembers them."""
    scene, held = demo_scene(90, True), list[KVChunk]()
    for start in (32, 48):
        jpegs = [scene.jpeg(float(start + s), 128, 85) for s in range(16)]
        chunk, _ = speaker.watch(jpegs, [float(start + s) for s in range(16)], None, held)
        held.append(chunk)
    return held


@pytest.mark.slow
@torch.inference_mode()
def test_margins_have_more_values_than_half_precision_logits(exact: Speaker, half: Speaker) -> None:
    true = exact.margins(ASKS, remembered(exact))
    held = remembered(half)
    ours = half.margins(ASKS, held)
    cache = half.model.cache((half.prefix, *held))
    logits = half.model.ask([half.ids(prompt.question(ask)) for ask in ASKS], cache)
    plain = (logits[:, half.yes] - logits[:, half.no]).tolist()
    assert len(ASKS) > 300
    assert len(set(plain)) < 0.5 * len(ASKS)
    assert len(set(ours)) == len(ASKS)

    def error(margins: list[float]) -> float:
        return fmean(abs(a - b) for a, b in zip(margins, true, strict=True))

    assert error(ours) < 0.7 * error(plain)
