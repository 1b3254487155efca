"""Our classes against tensors that the reference's own modules wrote (float32, small weights).

Every configuration found under `LONGWATCH_GOLDEN` is tried; none is named here.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from analyzer.kv.cache import KVCache, KVChunk, concatenate_chunks
from analyzer.kv.forward import ForwardContext, StreamSlice, attention_block, chunk_attention_blocks
from analyzer.kv.rotary import angles, rotate
from analyzer.models.loading import load_weights
from analyzer.models.videoxl2.config import STILLS_PER_GROUP
from analyzer.models.videoxl2.model import VideoXL2
from analyzer.models.videoxl2.prompt import timestamp
from kit.model.granularity import dense_chunks, pool_except
from kit.model.reference import block_of, config_of, reference_mask

HERE = Path(__file__).parent / "golden" / "video-xl-2"
GOLDEN = Path(os.environ.get("LONGWATCH_GOLDEN", HERE))
NAMES = sorted(path.name.removesuffix("_weights.json") for path in GOLDEN.glob("*_weights.json"))


@dataclass(frozen=True)
class Golden:
    name: str
    model: VideoXL2
    said: dict[str, Any]

    def tensors(self, part: str) -> dict[str, Tensor]:
        return load_file(GOLDEN / f"{self.name}_{part}.safetensors")

    def extras(self, part: str) -> dict[str, Any]:
        extra: dict[str, Any] = json.loads((GOLDEN / f"{self.name}_{part}.json").read_text())
        return extra["extra"]


@dataclass(frozen=True)
class Sequence:
    """What goes into the decoder; `anchors_T` marks all that is not a visual token."""

    x_TE: Tensor
    anchors_T: Tensor
    begin: int
    end: int


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> Iterator[Golden]:
    facts = json.loads((GOLDEN / f"{request.param}_weights.json").read_text())
    model = VideoXL2(config_of(facts["config"])).eval()
    golden = Golden(request.param, model, facts)
    load_weights(model, golden.tensors("weights"))
    with torch.inference_mode():
        yield golden


@pytest.fixture(name="sequence", scope="module")
def make_sequence(golden: Golden) -> Sequence:
    """Put together what goes into the decoder, from ids and visual tokens of our own making."""
    full, language = golden.tensors("full"), golden.model.language
    prompt_ids, video_ids = full["prompt_ids"], full["time_embedding_ids"]
    begin = int((prompt_ids < 0).nonzero())
    visual = video_ids == golden.said["ids"]["VISUAL_PAD"]
    tokens = golden.model.encode(golden.tensors("vision")["pixel_values"])
    x_video = language.embed(video_ids).masked_scatter(visual[:, None], tokens)
    before, after = (language.embed(ids) for ids in (prompt_ids[:begin], prompt_ids[begin + 1 :]))
    anchors = torch.ones(len(before) + len(visual) + len(after), dtype=torch.bool)
    anchors[begin : begin + len(visual)] = ~visual
    x_TE = torch.cat([before, x_video, after])
    return Sequence(x_TE, anchors, begin, begin + len(visual))


def close(ours: Tensor, expected: Tensor, within: float = 1e-3) -> None:
    torch.testing.assert_close(ours, expected, atol=within, rtol=0)


def whole(golden: Golden, mask_TT: Tensor, sequence: Sequence) -> tuple[Tensor, KVChunk]:
    """Read a sequence in one pass under a mask."""
    language, length = golden.model.language, len(sequence.x_TE)
    lane = StreamSlice(0, length, None, [attention_block(sequence.x_TE, slice(None), (), mask_TT)])
    reading = ForwardContext(torch.arange(length), [lane])
    hidden = language.hidden_states(sequence.x_TE[None], reading)[0]
    return hidden, reading.chunk(lane, sequence.anchors_T)


def blockwise(golden: Golden, sequence: Sequence) -> tuple[KVCache, list[KVChunk]]:
    """Prefill prefix and blocks, one after the other."""
    groups = golden.said["config"]["block_size_chosed"]
    cache, chunks, at = golden.model.cache(), list[KVChunk](), 0
    blocks = block_of(sequence.anchors_T[sequence.begin : sequence.end], groups)
    sizes = torch.bincount(blocks).tolist()
    for size in (sequence.begin, *sizes):
        piece = slice(at, at + size)
        chunk = golden.model.prefill(sequence.x_TE[piece], sequence.anchors_T[piece], cache)
        cache.append(chunk)
        chunks.append(chunk)
        at += size
    return cache, chunks


def greedy(golden: Golden, x_TE: Tensor, cache: KVCache, steps: int) -> tuple[Tensor, list[int]]:
    """Read a suffix behind a cache and go on with the likeliest ids; return all logits."""
    logits, ids = list[Tensor](), list[int]()
    for _ in range(steps):
        text = torch.ones(len(x_TE), dtype=torch.bool)
        looks = chunk_attention_blocks(text, cache, full_chunks=1)
        lane = StreamSlice(0, len(x_TE), cache, looks)
        reading = ForwardContext(cache.length + torch.arange(len(x_TE)), [lane])
        hidden = golden.model.language.hidden_states(x_TE[None], reading)[0]
        cache.append(reading.chunk(lane, text))
        logits.append(golden.model.language.logits(hidden[-1]))
        ids.append(int(logits[-1].argmax()))
        x_TE = golden.model.language.embed(torch.tensor(ids[-1:]))
    return torch.stack(logits), ids


def compare_layers(expected: dict[str, Tensor], prefix: str, chunk: KVChunk, rotated: bool) -> None:
    keys = chunk.keys_NKTD
    if rotated:
        inv_freq = expected["inv_freq"]
        keys = rotate(keys, *angles(torch.arange(len(chunk)), inv_freq, keys))
    compared = 0
    for layer in range(len(keys)):
        if f"{prefix}_k_{layer}" in expected:
            close(keys[layer], expected[f"{prefix}_k_{layer}"])
            close(chunk.values_NKTD[layer], expected[f"{prefix}_v_{layer}"])
            compared += 1
    assert compared


def unpacked(tensors: dict[str, Tensor]) -> Tensor:
    packed = tensors["mask_packed"].numpy()
    return torch.from_numpy(np.unpackbits(packed, axis=-1, count=len(packed))).bool()


def test_there_are_golden_files() -> None:
    assert NAMES, f"no *_weights.json in {GOLDEN}"


def test_visual_tokens_are_the_references(golden: Golden) -> None:
    expected = golden.tensors("vision")
    close(golden.model.encode(expected["pixel_values"]), expected["visual_tokens"], 1e-4)


def test_timestamp_texts_are_the_references(golden: Golden) -> None:
    firsts = golden.said["times"][::STILLS_PER_GROUP]
    assert [timestamp(seconds) for seconds in firsts] == golden.said["group_text"]


def test_one_shot_prefill_is_the_references(golden: Golden, sequence: Sequence) -> None:
    full = golden.tensors("full")
    close(sequence.x_TE, full["inputs_embeds"], 1e-4)
    causal = torch.ones(len(sequence.x_TE), len(sequence.x_TE), dtype=torch.bool).tril()
    _, chunk = whole(golden, causal, sequence)
    full["inv_freq"] = golden.model.language.decoder.model.rotary_emb.inv_freq
    compare_layers(full, "prefill", chunk, rotated=True)


@pytest.mark.parametrize("piece", [10_000, 317])
def test_one_shot_answer_is_the_references(golden: Golden, sequence: Sequence, piece: int) -> None:
    """All text sees everything, so that a sequence read as text is read causally."""
    full, cache = golden.tensors("full"), golden.model.cache()
    for x_TE in sequence.x_TE[:-1].split(piece):
        cache.append(golden.model.prefill(x_TE, torch.ones(len(x_TE), dtype=torch.bool), cache))
    logits, ids = greedy(golden, sequence.x_TE[-1:], cache, len(full["step_logits"]))
    close(logits, full["step_logits"])
    assert ids == full["generated_ids"].tolist()


def test_chunk_mask_is_the_references(golden: Golden, sequence: Sequence) -> None:
    mask = masked(golden, sequence)
    assert torch.equal(mask, unpacked(golden.tensors("chunk")))
    bilevel = golden.tensors("bilevel")
    assert "mask_packed" not in bilevel or torch.equal(mask, unpacked(bilevel))


def masked(golden: Golden, sequence: Sequence) -> Tensor:
    facts = golden.said["config"]
    blocks = torch.zeros(len(sequence.anchors_T), dtype=torch.long)
    video = slice(sequence.begin, sequence.end)
    blocks[video] = block_of(sequence.anchors_T[video], facts["block_size_chosed"])
    return reference_mask(sequence.anchors_T, blocks, facts["prev_blocks_num"])


def test_prefill_chunk_by_chunk_is_the_references(golden: Golden, sequence: Sequence) -> None:
    expected = golden.tensors("chunk")
    cache, chunks = blockwise(golden, sequence)
    expected["inv_freq"] = golden.model.language.decoder.model.rotary_emb.inv_freq
    video = {k: v[:, : sequence.end] if "prefill_" in k else v for k, v in expected.items()}
    compare_layers(video, "prefill", concatenate_chunks(chunks), rotated=True)
    logits, ids = greedy(golden, sequence.x_TE[sequence.end :], cache, len(expected["step_logits"]))
    close(logits, expected["step_logits"])
    assert ids == expected["generated_ids"].tolist()


def test_loop_equals_the_mask(golden: Golden, sequence: Sequence) -> None:
    _, chunks = blockwise(golden, sequence)
    _, chunk = whole(golden, masked(golden, sequence), sequence)
    close(concatenate_chunks(chunks).keys_NKTD, chunk.keys_NKTD[:, :, : sequence.end])
    close(concatenate_chunks(chunks).values_NKTD, chunk.values_NKTD[:, :, : sequence.end])


def test_bi_granularity_is_the_references(golden: Golden, sequence: Sequence) -> None:
    expected, extra = golden.tensors("bilevel"), golden.extras("bilevel")
    said = golden.said["config"]["selected_config"]
    groups = said["selected_chunk_size"]
    _, (prefix, *blocks) = blockwise(golden, sequence)
    blocks = concatenate_chunks(blocks).split_groups(groups)
    dense = dense_chunks(extra["selected_unit_indices"], groups, len(blocks))
    assert {0, *(number + 1 for number in dense)} == set(extra["dense_block_ids"])
    held = pool_except(blocks, dense, said["compression"])
    merged = concatenate_chunks([prefix, *held])
    assert len(merged) == extra["mixed_len"]
    compare_layers(expected, "mixed", merged, rotated=False)
    cache = golden.model.cache([prefix, *held])
    logits, ids = greedy(golden, sequence.x_TE[sequence.end :], cache, len(expected["step_logits"]))
    close(logits, expected["step_logits"])
    assert ids == expected["generated_ids"].tolist()
