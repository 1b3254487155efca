"""Chunks in eight bits: how far off they are, with the key biases that were published."""

import pytest
import torch

from analyzer.kv.int8 import LEVELS, Int8Chunk
from bench import precision


@pytest.mark.parametrize("norm", precision.NORMS)
def test_attention_is_near_in_each_tier_in_float16(norm: int) -> None:
    found = precision.errors(norm, torch.float16)
    assert {tier: found[tier] for tier in precision.TIERS if found[tier] > 0.02} == {}
    if norm > 600:
        assert found["without"] > 0.04, "the bias must be one that the mean is needed for"


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_a_number_is_off_by_half_a_level_and_the_roundings(kind: torch.dtype) -> None:
    chunk = precision.in_kind(precision.chunk_with_bias(605), kind)
    restored = Int8Chunk.quantise(chunk).restored()
    assert restored.keys_NKTD.dtype == restored.values_NKTD.dtype == kind
    keys, values = chunk.keys_NKTD.float(), chunk.values_NKTD.float()
    rest = keys - keys.mean(2, keepdim=True)
    step = torch.finfo(kind).eps
    for ours, true, largest in (
        (restored.keys_NKTD, keys, rest.abs().amax(2, keepdim=True)),
        (restored.values_NKTD, values, values.abs().amax(3, keepdim=True)),
    ):
        bound = largest * (0.5 / LEVELS + step) + true.abs() * step
        assert bool(((ours.float() - true).abs() <= bound).all())


def test_a_chunk_of_zeros_stays_zeros() -> None:
    chunk = precision.in_kind(precision.chunk_with_bias(22), torch.float16)
    chunk.keys_NKTD.zero_()
    chunk.values_NKTD.zero_()
    restored = Int8Chunk.quantise(chunk).restored()
    assert not restored.keys_NKTD.any()
    assert not restored.values_NKTD.any()
