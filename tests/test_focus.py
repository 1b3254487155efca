"""Which older chunks are read in full."""

import pytest
import torch

from analyzer.kv.cache import KVChunk
from analyzer.kv.focus import (
    CHUNKS_PER_PRODUCT,
    relevance,
    remove_age_trend,
    select_most_relevant,
    visual_keys,
)


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
    lift = relevance(queries, [visual_keys(chunk) for chunk in chunks])
    assert lift.shape == (1, 8)
    assert int(lift[0].argmax()) == about
    assert select_most_relevant(lift, [True] * 8, 1) == {about}


def test_a_longer_chunk_is_not_more_relevant_for_that() -> None:
    key = torch.ones(8)
    keys = [visual_keys(chunk(key, tokens)) for tokens in (6, 24)]
    lift = relevance(torch.zeros(2, 1, 3, 8), keys)
    torch.testing.assert_close(lift, torch.zeros(1, 2), atol=1e-5, rtol=0)


def test_age_alone_does_not_win() -> None:
    trend = torch.linspace(-3, 3, 9)[None]
    torch.testing.assert_close(remove_age_trend(trend), torch.zeros(1, 9), atol=1e-5, rtol=0)
    bump = trend.clone()
    bump[0, 2] += 2
    assert int(remove_age_trend(bump).argmax()) == 2


def test_few_chunks_keep_their_differences() -> None:
    assert remove_age_trend(torch.tensor([[0.0, 1.0]])).tolist() == [[-0.5, 0.5]]


def test_only_what_is_still_dense_can_be_chosen_and_at_most_the_budget() -> None:
    lift = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 0.0, 0.0, 2.5]])
    assert select_most_relevant(lift, [False, True, True, True], 2) == {1, 3}
    assert select_most_relevant(lift, [False] * 4, 2) == frozenset()
    assert select_most_relevant(torch.zeros(1, 4), [True] * 4, 2) == {2, 3}


def some_keys(bias: float = 0.0) -> list[torch.Tensor]:
    """Return the keys of more chunks than one batch, not all alike; two layers, two key heads.

    All have a bias of that size in four channels.
    """
    torch.manual_seed(0)
    lengths = [6] * (CHUNKS_PER_PRODUCT + 3) + [9, 9, 6]
    offset = torch.zeros(32)
    offset[:4] = bias
    return [torch.randn(2, 2, length, 32) + offset for length in lengths]


def plain(queries: torch.Tensor, keys: list[torch.Tensor]) -> torch.Tensor:
    """Return the relevance by one softmax over all keys, in double."""
    sizes = [key.shape[2] for key in keys]
    together = torch.cat(keys, dim=2).double().repeat_interleave(2, dim=1)
    logits = queries.double().transpose(1, 2) @ together.transpose(2, 3) * 32**-0.5
    mass = torch.stack([part.sum(-1) for part in logits.softmax(-1).split(sizes, -1)], dim=-1)
    share = torch.tensor(sizes) / sum(sizes)
    return remove_age_trend((mass.mean((0, 1)) / share).clamp_min(1e-6).log()).float()


def test_relevance_equals_one_softmax_over_all_keys() -> None:
    keys, queries = some_keys(), torch.randn(2, 3, 4, 32) * 2
    torch.testing.assert_close(relevance(queries, keys), plain(queries, keys), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_bias_of_the_keys_changes_no_relevance(kind: torch.dtype) -> None:
    """Products are in float32 at least: nothing more is lost of what half precision stores."""
    keys = [key.to(kind) for key in some_keys(bias=60)]
    queries = (torch.randn(2, 3, 4, 32) * 2).to(kind)
    found = relevance(queries, keys)
    assert found.dtype == torch.promote_types(kind, torch.float32)
    torch.testing.assert_close(found.float(), plain(queries, keys), atol=1e-4, rtol=0)


def test_products_beyond_float16_stay_finite() -> None:
    keys = [(key * 10 + 600).half() for key in some_keys()]
    queries = torch.full((2, 3, 4, 32), 90.0).half()
    assert bool((queries[0, 0, 0] @ keys[0][0, 0, 0]).isinf())
    found = relevance(queries, keys)
    assert bool(found.isfinite().all())
    assert bool(found.any())


def test_a_question_that_is_no_number_has_no_say() -> None:
    queries = torch.randn(2, 3, 4, 32)
    sound = relevance(queries, some_keys())
    queries[1, 2, 0, 0] = torch.nan
    found = relevance(queries, some_keys())
    assert not found[2].any()
    torch.testing.assert_close(found[:2], sound[:2])


def test_visual_keys_are_those_that_are_no_text() -> None:
    keys = torch.arange(7.0).view(1, 1, 7, 1)
    anchors = torch.tensor([True, False, False, True, True, False, False])
    assert visual_keys(KVChunk(keys, keys, anchors)).flatten().tolist() == [1, 2, 5, 6]
