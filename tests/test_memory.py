"""What one camera remembers, and that asking changes nothing."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch
from small_model import BEGIN, small_speaker, window

from analyzer.memory import EPOCH, Memory
from analyzer.videoxl2.kv import KVChunk
from analyzer.videoxl2.speaker import Speaker

ASKS = ["Is there a fire?", "Is there a bag that nobody is with?", "Is anything unusual happening?"]


@pytest.fixture(scope="module")
def speaker() -> Iterator[Speaker]:
    with torch.inference_mode():
        speaker = small_speaker()
        speaker.model.double()
        yield Speaker(speaker.model, speaker.tokenizer, "double@0")


def chunk_of(speaker: Speaker, groups: int = 4) -> KVChunk:
    torch.manual_seed(1)
    config = speaker.model.config
    tokens = torch.randn(groups, config.tokens_per_group, config.language["hidden_size"]).double()
    x_TE, anchors_T = speaker.interleave(tokens, range(4 * groups))
    return speaker.model.prefill(x_TE, anchors_T, speaker.model.cache([speaker.prefix]))


def test_packed_questions_equal_separate_ones(speaker: Speaker) -> None:
    held = [chunk_of(speaker)]
    packed = speaker.margins(ASKS, held)
    apart = [speaker.margins([ask], held)[0] for ask in ASKS]
    assert packed == pytest.approx(apart, abs=1e-5)


def test_asking_leaves_the_memory_as_it_was(speaker: Speaker) -> None:
    chunk = chunk_of(speaker)
    before = chunk.keys_NKTD.clone(), chunk.values_NKTD.clone()
    speaker.margins(ASKS, [chunk])
    speaker.say(ASKS[0], [chunk], limit=5)
    assert torch.equal(before[0], chunk.keys_NKTD)
    assert torch.equal(before[1], chunk.values_NKTD)


def test_horizon_bounds_what_is_held(speaker: Speaker) -> None:
    memory = Memory(timedelta(seconds=64))
    chunk = chunk_of(speaker, groups=1)
    sizes = []
    for nth in range(20):
        memory.seconds(window(nth))
        memory.append(window(nth), chunk, None)
        sizes.append(memory.nbytes)
    assert memory.span <= timedelta(seconds=64)
    assert set(sizes[4:]) == {4 * chunk.nbytes}
    assert len(memory.last(timedelta(seconds=16))) == 1
    assert len(memory.last(timedelta(seconds=17))) == 2


def test_time_restarts_with_the_epoch(speaker: Speaker) -> None:
    memory = Memory(timedelta(hours=3))
    chunk = chunk_of(speaker, groups=1)
    for start in (BEGIN, BEGIN + EPOCH - timedelta(minutes=1), BEGIN + EPOCH):
        w = window(begin=start)
        seconds = memory.seconds(w)
        assert 0 <= seconds[0] < seconds[-1] < EPOCH.total_seconds()
        memory.append(w, chunk, None)
    assert len(memory.last()) == 1
