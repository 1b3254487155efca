"""Attention kernels lay their outputs out as they like: no caller may depend on it.

torch's memory-efficient kernel returns (B, T, H, D) memory under (B, H, T, D) strides, cuDNN's
and flash's either; a CPU's returns what can be viewed. Which one a card takes depends on its
generation and on the precision.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from analyzer.kv.forward import PrefillInput
from kit.model.small_model import small_runner
from kit.model.videoxl2 import videoxl2_of

PLAIN = F.scaled_dot_product_attention
STRIDES: dict[str, Callable[[Tensor], Tensor]] = {
    "heads last": lambda x: x.transpose(-3, -2).contiguous().transpose(-3, -2),
    "width first": lambda x: x.transpose(-2, -1).contiguous().transpose(-2, -1),
    "padded": lambda x: F.pad(x, (0, 8))[..., : x.shape[-1]],
}
CLOSE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}
"""Products of other strides are summed in another order."""


def outputs(kind: torch.dtype) -> list[Tensor]:
    """Return what each caller of an attention kernel makes: vision, chunks, answers."""
    model = videoxl2_of(small_runner()).to(kind)
    model.language.decoder.model.rotary_emb.inv_freq = (
        model.language.decoder.model.rotary_emb.inv_freq.float()
    )
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(8, 6, 32, 48, generator=generator).to(kind)
    with torch.no_grad():
        tokens_GVE = model.encode(pixels)
    marks = torch.tensor(([True] * 3 + [False] * tokens_GVE.shape[1]) * 2)
    x_TE = torch.randn(len(marks), 48, generator=generator).to(kind)
    cache = model.cache()
    with torch.enable_grad():  # the parts of a memory are read together, as on a card
        for _ in range(5):
            (chunk,) = model.prefill_all([PrefillInput(x_TE, marks, cache)])
            cache.append(chunk)
        (asked,) = model.forward_texts([([[1, 2, 3], [4, 5]], cache)])
    made = [tokens_GVE, chunk.keys_NKTD, chunk.values_NKTD, asked.hidden_QE]
    return [tensor.detach() for tensor in made]


@pytest.mark.parametrize("kind", CLOSE, ids=str)
@pytest.mark.parametrize("strides", STRIDES)
def test_no_caller_depends_on_the_strides_of_a_kernel(
    strides: str, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, calls = outputs(kind), list[bool]()

    def strided(*arguments: Any, **named: Any) -> Tensor:
        out = PLAIN(*arguments, **named)
        laid = STRIDES[strides](out)
        calls.append(laid.stride() != out.stride())
        return laid

    monkeypatch.setattr(F, "scaled_dot_product_attention", strided)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", strided)
    for ours, plain in zip(outputs(kind), wanted, strict=True):
        torch.testing.assert_close(ours, plain, atol=CLOSE[kind], rtol=0)
    assert any(calls)
