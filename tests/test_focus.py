"""Which older chunks are read in full."""

import pytest
import torch

from analyzer.focus import choose, detrended, relevance
from analyzer.videoxl2.kv import KVChunk


def chunk(key: torch.Tensor, tokens: int = 6) -> KVChunk:
    """Return a chunk of a timestamp and visual tokens with about the same key in every layer."""
    torch.manual_seed(int(key.abs().sum() * 1000) % 1000)
    keys = key.expand(2, 1, tokens + 1, len(key)) + 0.05 * torch.randn(2, 1, tokens + 1, len(key))
    anchors = torch.tensor([True] + [False] * tokens)
    return KVChunk(keys, keys, anchors)


@pytest.mark.parametrize("about", range(8))
def test_chunk_that_the_question_is_about_is_the_most_relevant(about: int) -> None:
    kinds = torch.eye(8) * 4
    chunks = [chunk(kind) for kind in kinds]
    queries = kinds[about].expand(2, 1, 3, 8)
    lift = relevance(queries, chunks)
    assert lift.shape == (1, 8)
    assert int(lift[0].argmax()) == about
    assert choose(lift, [True] * 8, 1) == {about}


def test_a_longer_chunk_is_not_more_relevant_for_that() -> None:
    key = torch.ones(8)
    lift = relevance(torch.zeros(2, 1, 3, 8), [chunk(key, 6), chunk(key, 24)])
    torch.testing.assert_close(lift, torch.zeros(1, 2), atol=1e-5, rtol=0)


def test_age_alone_does_not_win() -> None:
    trend = torch.linspace(-3, 3, 9)[None]
    torch.testing.assert_close(detrended(trend), torch.zeros(1, 9), atol=1e-5, rtol=0)
    bump = trend.clone()
    bump[0, 2] += 2
    assert int(detrended(bump).argmax()) == 2


def test_few_chunks_keep_their_differences() -> None:
    assert detrended(torch.tensor([[0.0, 1.0]])).tolist() == [[-0.5, 0.5]]


def test_only_what_is_still_dense_can_be_chosen_and_at_most_the_budget() -> None:
    lift = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 0.0, 0.0, 2.5]])
    assert choose(lift, [False, True, True, True], 2) == {1, 3}
    assert choose(lift, [False] * 4, 2) == frozenset()
    assert choose(torch.zeros(1, 4), [True] * 4, 2) == {2, 3}
