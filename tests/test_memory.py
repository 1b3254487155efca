"""What one camera remembers, and that reading it in pieces changes nothing."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch
from small_model import BEGIN, small_speaker, window

from analyzer.memory import EPOCH, Memory
from analyzer.videoxl2.language import Layers, Reading
from analyzer.videoxl2.speaker import Speaker

ASKS = ["Is there a fire?", "Is there a bag that nobody is with?", "Is anything unusual happening?"]


@pytest.fixture(scope="module")
def speaker() -> Iterator[Speaker]:
    with torch.inference_mode():
        speaker = small_speaker()
        speaker.model.double()
        speaker.prefix = speaker.model.prefill(speaker._words("Hello"), ())
        yield speaker


def stream(speaker: Speaker, tokens: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(tokens, speaker.model.config.language["hidden_size"]).double()


def test_chunks_equal_one_shot(speaker: Speaker) -> None:
    x_TE = stream(speaker, 150)
    whole = Reading(())
    speaker.model.language.read(x_TE[None], torch.arange(150), whole)
    parts: list[Layers] = []
    for piece in x_TE.split([7, 60, 1, 82]):
        parts.append(speaker.model.prefill(piece, parts))
    gathered, length = speaker.model.language.gather(parts)
    assert length == 150
    for (keys, values), (k_whole, v_whole) in zip(gathered, whole.made, strict=True):
        k_seen = speaker.model.language.turn(k_whole, -150)
        torch.testing.assert_close(keys, k_seen, atol=1e-5, rtol=0)
        torch.testing.assert_close(values, v_whole, atol=1e-5, rtol=0)


def test_packed_questions_equal_separate_ones(speaker: Speaker) -> None:
    held = [speaker.model.prefill(stream(speaker, 90), (speaker.prefix,))]
    packed = speaker.margins(ASKS, held)
    apart = [speaker.margins([ask], held)[0] for ask in ASKS]
    assert packed == pytest.approx(apart, abs=1e-5)


def test_asking_leaves_the_memory_as_it_was(speaker: Speaker) -> None:
    held = speaker.model.prefill(stream(speaker, 90), (speaker.prefix,))
    before = [tensor.clone() for pair in held.held for tensor in pair]
    speaker.margins(ASKS, [held])
    after = [tensor for pair in held.held for tensor in pair]
    assert all(map(torch.equal, before, after))


def test_keys_carry_no_absolute_position(speaker: Speaker) -> None:
    """The same chunk answers the same wherever in the stream it stood when it was read."""
    x_TE = stream(speaker, 40)
    alone = speaker.model.prefill(x_TE, ())
    turned = speaker.model.language.turn(alone.held[0][0], 10_000_000)
    back = speaker.model.language.turn(turned, -10_000_000)
    torch.testing.assert_close(back, alone.held[0][0], atol=1e-5, rtol=0)


def test_horizon_bounds_what_is_held(speaker: Speaker) -> None:
    memory = Memory(timedelta(seconds=64))
    layers = speaker.model.prefill(stream(speaker, 5), ())
    sizes = []
    for nth in range(20):
        memory.seconds(window(nth))
        memory.append(window(nth), layers, None)
        sizes.append(memory.nbytes)
    assert memory.span <= timedelta(seconds=64)
    assert set(sizes[4:]) == {4 * layers.nbytes}
    assert len(memory.last(timedelta(seconds=16))) == 1
    assert len(memory.last(timedelta(seconds=17))) == 2


def test_time_restarts_with_the_epoch(speaker: Speaker) -> None:
    memory = Memory(timedelta(hours=3))
    layers = speaker.model.prefill(stream(speaker, 5), ())
    for start in (BEGIN, BEGIN + EPOCH - timedelta(minutes=1), BEGIN + EPOCH):
        w = window(begin=start)
        seconds = memory.seconds(w)
        assert 0 <= seconds[0] < seconds[-1] < EPOCH.total_seconds()
        memory.append(w, layers, None)
    assert len(memory.last()) == 1
