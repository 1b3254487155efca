"""Reading a stream in chunks, pooled or not, against one pass under the reference's mask."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from analyzer.kv import attention
from analyzer.kv.attention import KVSlice
from analyzer.kv.cache import KVChunk, concatenate_chunks
from analyzer.kv.granularity import dense_chunks, pool_except
from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.models.videoxl2.language import ForwardContext, StreamSlice, chunk_attention_blocks
from analyzer.models.videoxl2.model import VideoXL2
from kit.model.reference import block_of, reference_mask


@dataclass(frozen=True)
class Stream:
    """A random model, and a stream of a prefix and groups of timestamp and visual tokens."""

    model: VideoXL2
    x_TE: Tensor
    anchors_T: Tensor
    block_T: Tensor
    prefix: int

    def pieces(self) -> list[slice]:
        sizes = [self.prefix, *torch.bincount(self.block_T[self.prefix :]).tolist()]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def make_stream(
    *,
    seed: int = 0,
    heads: tuple[int, int] = (4, 2),
    layers: int = 2,
    theta: float = 1e4,
    visual: int = 4,
    stamps: Sequence[int] = (2, 2, 3, 1, 2),
    prefix: int = 3,
    block: int = 2,
    previous: int = 1,
) -> Stream:
    """Return a stream of as many groups as `stamps`, each with so many timestamp tokens."""
    width = 8 * heads[0]
    language = {
        "hidden_size": width,
        "intermediate_size": 24,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
    }
    tower = {
        "hidden_size": 64,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 2,
    }
    config = VideoXL2Config(
        height=8,
        width=8,
        grid=(4, 4),
        pool=1,
        stem="patch",
        previous=previous,
        tower=tower,
        language=language,
    )
    torch.manual_seed(seed)
    model = VideoXL2(config).eval().double()
    video_T = torch.cat([torch.tensor([True] * n + [False] * visual) for n in stamps])
    block_T = block_of(video_T, block)
    return Stream(
        model,
        torch.randn(prefix + len(video_T), width).double(),
        torch.cat([torch.ones(prefix, dtype=torch.bool), video_T]),
        torch.cat([torch.zeros(prefix, dtype=torch.long), block_T]),
        prefix,
    )


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    key_heads = draw(st.integers(1, 2))
    return make_stream(
        seed=draw(st.integers(0, 1000)),
        heads=(key_heads * draw(st.integers(1, 3)), key_heads),
        layers=draw(st.integers(1, 3)),
        theta=draw(st.sampled_from([1e4, 1e6])),
        visual=4 * draw(st.integers(1, 3)),
        stamps=draw(st.lists(st.integers(1, 3), min_size=1, max_size=9)),
        prefix=draw(st.integers(1, 4)),
        block=draw(st.integers(1, 4)),
        previous=draw(st.integers(0, 4)),
    )


def chunks_of(stream: Stream) -> list[KVChunk]:
    cache, chunks = stream.model.cache(), list[KVChunk]()
    for piece in stream.pieces():
        chunks.append(stream.model.prefill(stream.x_TE[piece], stream.anchors_T[piece], cache))
        cache.append(chunks[-1])
    return chunks


def at_once(stream: Stream, mask_TT: Tensor) -> KVChunk:
    language, length = stream.model.language, len(stream.x_TE)
    lane = StreamSlice(0, length, None, [language.attention_block(slice(None), (), mask_TT)])
    reading = ForwardContext(torch.arange(length), [lane])
    language.collect_keys_values(stream.x_TE[None], reading)
    return reading.chunk(lane, stream.anchors_T)


def assert_same(ours: KVChunk, expected: KVChunk) -> None:
    torch.testing.assert_close(ours.keys_NKTD, expected.keys_NKTD, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.values_NKTD, expected.values_NKTD, atol=1e-5, rtol=0)
    assert torch.equal(ours.anchors_T, expected.anchors_T)


@settings(max_examples=60, deadline=None)
@given(streams())
def test_loop_equals_one_pass_under_the_mask(stream: Stream) -> None:
    mask = reference_mask(stream.anchors_T, stream.block_T, stream.model.config.previous)
    with torch.inference_mode():
        assert_same(concatenate_chunks(chunks_of(stream)), at_once(stream, mask))


@settings(max_examples=30, deadline=None)
@given(streams(), st.sets(st.integers(0, 12)), st.integers(1, 4), st.sampled_from([1, 2, 4]))
def test_bi_granularity_pools_what_is_not_selected(
    stream: Stream, units: set[int], groups: int, compression: int
) -> None:
    with torch.inference_mode():
        blocks = concatenate_chunks(chunks_of(stream)[1:]).split_groups(groups)
        dense = dense_chunks(units, groups, len(blocks))
        held = pool_except(blocks, dense, compression)
    assert_same(concatenate_chunks(blocks), concatenate_chunks(chunks_of(stream)[1:]))
    for nth, (block, kept) in enumerate(zip(blocks, held, strict=True)):
        visual = int((~block.anchors_T).sum())
        if nth in dense:
            assert kept is block
            continue
        assert len(kept) == len(block) - visual + visual // compression
        for x_NKTD, pooled_NKTD in (
            (block.keys_NKTD, kept.keys_NKTD),
            (block.values_NKTD, kept.values_NKTD),
        ):
            text = x_NKTD[:, :, block.anchors_T]
            assert torch.equal(pooled_NKTD[:, :, kept.anchors_T], text)
            means = x_NKTD[:, :, ~block.anchors_T].unflatten(2, (-1, compression)).mean(3)
            torch.testing.assert_close(pooled_NKTD[:, :, ~kept.anchors_T], means)


@settings(max_examples=20, deadline=None)
@given(streams(), st.integers(1, 6))
def test_all_dense_answers_as_the_whole_does(stream: Stream, limit: int) -> None:
    """Greedy decoding behind chunks equals decoding by reading everything again each time."""
    model, text = stream.model, [3, 1, 4]
    with torch.inference_mode():
        cache = model.cache(pool_except(chunks_of(stream), range(99), 4))
        ours = model.generate(text, cache, limit, stop_id=-1)
        expected, blocks = list[int](), stream.block_T
        for _ in range(limit):
            ids = torch.tensor(text + expected)
            x_TE = torch.cat([stream.x_TE, model.language.embed(ids)])
            anchors = torch.cat([stream.anchors_T, torch.ones(len(ids), dtype=torch.bool)])
            block = torch.cat([blocks, torch.zeros(len(ids), dtype=torch.long)])
            look = model.language.attention_block(
                slice(None), (), reference_mask(anchors, block, model.config.previous)
            )
            lane = StreamSlice(0, len(x_TE), None, [look])
            hidden = model.language.hidden_states(
                x_TE[None], ForwardContext(torch.arange(len(x_TE)), [lane])
            )
            expected.append(int(model.language.logits(hidden[0, -1]).argmax()))
    assert ours == expected


def test_answer_ends_at_the_stop_and_leaves_the_cache() -> None:
    stream = make_stream()
    with torch.inference_mode():
        cache = stream.model.cache(chunks_of(stream))
        length = cache.length
        free = stream.model.generate([3], cache, 5, stop_id=-1)
        assert stream.model.generate([3], cache, 5, stop_id=free[2]) == free[: free.index(free[2])]
    assert cache.length == length


@pytest.mark.parametrize("lengths", [[], [1], [70], [5, 40, 1]])
def test_reading_apart_equals_reading_together(lengths: list[int]) -> None:
    torch.manual_seed(len(lengths))
    q = torch.randn(1, 6, 9, 8)
    held = [
        KVSlice(torch.randn(1, 2, length, 8), torch.randn(1, 2, length, 8), gain)
        for length, gain in zip(lengths, (0.0, 1.4, -2.0), strict=False)
    ]
    own = torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    bias = torch.zeros(9, 9).masked_fill(torch.ones(9, 9).triu(1) > 0, -torch.inf)
    # As in a pass that answers: in one that learns all is read together anyway.
    with torch.inference_mode():
        ours = attention.attend_with_cache(q, held, own, bias, 0.3)
    keys = torch.cat([*(part.keys_BKLD for part in held), own[0]], 2).repeat_interleave(3, 1)
    values = torch.cat([*(part.values_BKLD for part in held), own[1]], 2).repeat_interleave(3, 1)
    gains = [torch.full((9, part.keys_BKLD.shape[2]), part.log_size_bias) for part in held]
    logits = q @ keys.transpose(2, 3) * 0.3 + torch.cat([*gains, bias], dim=1)
    torch.testing.assert_close(ours, logits.softmax(-1) @ values, atol=1e-5, rtol=0)
    together = attention._attend_concatenated(
        q.reshape(1, 2, 27, 8), held, own, bias.repeat(3, 1), 0.3
    )
    torch.testing.assert_close(ours, together.view(1, 6, 9, 8), atol=1e-5, rtol=0)


def test_what_is_held_gets_its_gradient() -> None:
    torch.manual_seed(0)
    q, keys, values = (torch.randn(1, 2, n, 8, requires_grad=True) for n in (3, 5, 5))
    own = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 3, 8)
    bias = torch.zeros(3, 3).masked_fill(torch.ones(3, 3).triu(1) > 0, -torch.inf)
    ours = attention.attend_with_cache(q, [KVSlice(keys, values, 0.7)], own, bias, 0.3)
    gain = torch.cat([torch.full((3, 5), 0.7), bias], dim=1)
    share = (q @ torch.cat([keys, own[0]], 2).transpose(2, 3) * 0.3 + gain).softmax(-1)
    expected = share @ torch.cat([values, own[1]], 2)
    weight = torch.randn_like(expected)
    given, wanted = (
        torch.autograd.grad((out * weight).sum(), (q, keys, values)) for out in (ours, expected)
    )
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_streams_of_a_batch_are_read_as_each_alone() -> None:
    stream = make_stream(previous=1)
    language, pieces = stream.model.language, stream.pieces()
    torch.manual_seed(7)
    x_BTE = torch.stack([stream.x_TE, torch.randn_like(stream.x_TE)])
    with torch.inference_mode():
        alone = [concatenate_chunks(chunks_of(replace(stream, x_TE=x_TE))) for x_TE in x_BTE]
        held = list[KVChunk]()
        for piece in pieces:
            anchors, cache = stream.anchors_T[piece], language.cache(held)
            looks = chunk_attention_blocks(language, anchors, cache, stream.model.config.previous)
            lane = StreamSlice(0, len(anchors), cache, looks)
            reading = ForwardContext(cache.length + torch.arange(len(anchors)), [lane])
            language.collect_keys_values(x_BTE[:, piece], reading)
            held.append(reading.chunk(lane, anchors))
    both = concatenate_chunks(held)
    for nth, own in enumerate(alone):
        heads = slice(nth * own.keys_NKTD.shape[1], (nth + 1) * own.keys_NKTD.shape[1])
        keys, values = both.keys_NKTD[:, heads], both.values_NKTD[:, heads]
        assert_same(KVChunk(keys, values, both.anchors_T), own)


def test_pooling_never_crosses_a_timestamp() -> None:
    anchors = torch.tensor([True, False, False, False, True, False, False, False])
    chunk = KVChunk(torch.zeros(1, 1, 8, 2), torch.zeros(1, 1, 8, 2), anchors)
    assert len(chunk.pooled(3)) == 4
    for compression in (2, 4, 6):
        with pytest.raises(ValueError, match="does not divide"):
            chunk.pooled(compression)


@pytest.mark.parametrize(
    ("units", "groups", "chunks", "dense"),
    [
        ([], 4, 3, {0, 1, 2}),
        ([1], 2, 5, {0, 1, 4}),
        ([2, 5], 2, 6, {0, 2, 5}),
        ([3], 4, 4, {0, 1, 3}),
        ([1], 1, 12, {0, 2, 11}),
        ([400], 4, 4, {0, 3}),
    ],
)
def test_selected_units_name_the_references_chunks(
    units: list[int], groups: int, chunks: int, dense: set[int]
) -> None:
    assert dense_chunks(units, groups, chunks) == dense
