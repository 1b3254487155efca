"""What tests/bench/flops.py counts, against the same reckoned by hand."""

import pytest
import torch
from torch import nn

from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.models.videoxl2.model import VideoXL2
from bench import flops
from kit.model.checkpoints import small_config, write_json

WIDTH, KEYS, MLP, LAYERS, VOCABULARY = 64, 32, 128, 2, 768
"""The small decoder of the fixtures, whose heads are as wide together as it is."""


@pytest.fixture(name="model", scope="module")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> VideoXL2:
    path = tmp_path_factory.mktemp("small") / "config.json"
    write_json(path, small_config())
    return flops.shapes_of(VideoXL2Config.read(path))


@pytest.fixture(name="published", scope="module")
def make_published() -> VideoXL2:
    return flops.published()


def linear(tokens: int) -> int:
    """Reckon all products with the weights of one layer."""
    return 2 * tokens * WIDTH * (2 * WIDTH + 2 * KEYS + 3 * MLP)


def attention(rows: int, columns: int) -> int:
    return 4 * rows * columns * WIDTH


def head() -> int:
    return 2 * WIDTH * VOCABULARY


def test_a_linear_layer_is_two_operations_a_weight_and_token() -> None:
    layer = nn.Linear(7, 11, device="meta")
    assert flops.count(lambda: layer(torch.empty(5, 7, device="meta")))[0] == 2 * 5 * 7 * 11


@pytest.mark.parametrize("is_masked", [False, True])
def test_reading_again_counts_every_pair_of_tokens(model: VideoXL2, is_masked: bool) -> None:
    anchors = torch.cat([flops.text(3), flops.video(model.config, 0, 8)])
    counted, chunk = flops.count_reference_pass(model, anchors, is_masked)
    tokens = len(anchors)
    assert counted == LAYERS * (linear(tokens) + attention(tokens, tokens)) + head()
    assert flops.weigh([chunk]) == 2 * LAYERS * KEYS * tokens * torch.bfloat16.itemsize


def test_question_counts_what_is_held_and_itself(model: VideoXL2) -> None:
    held = [flops.remembered(model, flops.video(model.config, at, at + 16)) for at in (0, 16)]
    tokens = flops.QUESTION
    pairs = attention(tokens, sum(map(len, held)) + tokens)
    assert flops.ask(model, model.cache(held)) == LAYERS * (linear(tokens) + pairs) + head()


def test_chunk_counts_what_its_visual_tokens_and_its_timestamps_see(model: VideoXL2) -> None:
    """Rows of text are read twice; the last layer only makes keys and values."""
    past = [
        flops.remembered(model, flops.video(model.config, at, at + 16)) for at in range(0, 80, 16)
    ]
    anchors = flops.video(model.config, 80, 96)
    tokens, texts, previous = len(anchors), int(anchors.sum()), model.config.previous
    held = sum(map(len, past))
    near = held - sum(int((~chunk.anchors_T).sum()) for chunk in past[:-previous])
    pairs = attention(tokens, near + tokens) + attention(texts, held + tokens)
    last = 2 * tokens * WIDTH * 2 * KEYS
    assert (
        flops.prefill(model, anchors, model.cache(past))
        == (LAYERS - 1) * (linear(tokens) + pairs) + last
    )


def test_vision_of_a_still_is_what_its_layers_are(published: VideoXL2) -> None:
    """Of a still 729 patches in the tower; of four stills 576 positions behind it.

    Products and sums over four time steps are not counted.
    """
    C, E, P, G = 1152, 3584, 729, 576
    layer = 2 * P * C * (4 * C + 2 * 4304) + 4 * P * P * C
    tower = 2 * P * C * 3 * 14 * 14 + 26 * layer + 2 * P * G * C
    synthesis = 0
    for T in (4, 2):
        synthesis += T * (2 * G * C * 4 * C + 4 * G * G * C)
        synthesis += G * (2 * T * C * 4 * C + 2 * 2 * T * T * C)
        synthesis += T // 2 * 2 * G * C * C * 27
    projector = 2 * G * C * E + 2 * G // 4 * E * E
    assert flops.count_vision(published, 16) == 16 * tower + 4 * (synthesis + projector)
    assert flops.count_vision(published, 0) == 0


@pytest.mark.parametrize(
    ("seconds", "tokens"), [(0, 7), (12, 8), (100, 9), (1000, 10), (10_000, 11)]
)
def test_timestamps_have_as_many_tokens_as_with_qwens_tokenizer(
    published: VideoXL2, seconds: int, tokens: int
) -> None:
    marks = flops.video(published.config, seconds, seconds + 4)
    assert (int(marks.sum()), len(marks)) == (tokens, tokens + 144)


def test_selection_leaves_three_fifths(published: VideoXL2) -> None:
    views = {view.way: view for view in flops.views(published, 512)}
    whole, left = (
        sum(map(len, chunks)) for chunks in (views[flops.DENSE].laid, views[flops.SAME].laid)
    )
    assert 0.6 <= left / whole < 0.63


def test_what_ours_takes_to_the_same_answers_is_compared(model: VideoXL2) -> None:
    costs = [*flops.references(model, 64), *flops.ours(model, 64)]
    by_way = {cost.way: cost for cost in costs}
    theirs, ours = by_way[flops.MERGED], by_way[flops.SAME]
    assert theirs.question is not None
    assert ours.question is not None
    assert flops.ratios(costs) == {
        "one_more_chunk_at_64": theirs.chunk.both / ours.chunk.both,
        "question_at_64": theirs.question.both / ours.question.both,
    }
    assert theirs.held > ours.kept > by_way[flops.MASKED].held > by_way[flops.DENSE].kept
