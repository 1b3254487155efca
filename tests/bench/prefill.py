"""How the cost of prefilling grows: one shot, masked one shot as the reference does it, ours.

Language model only, random weights, with the proportions of the 8B's decoder (MLP 5.3 times
the width, one key head for several query heads), 152 tokens a group, blocks of 4 groups, 3
previous ones, as published. One shot is causal attention, which gives another result; masked
one shot and ours give the same keys and values, which is checked. Both baselines run on
transformers' own attention. The reference builds its mask in many steps; "at once" is the same
pass with the mask built in one. Times are processor seconds on one thread, so that other work
on the machine counts as little as possible.

    python tests/bench/prefill.py [--stills 32 64 128 256 512] [--repeats 3] [--json]
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

# Before this folder, in which a file would stand for a package.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import Qwen2Config

from analyzer.kv.cache import KVChunk, concatenate_chunks
from analyzer.kv.forward import ForwardContext, StreamSlice, chunk_attention_blocks
from analyzer.models.videoxl2.language import Language
from kit.model.reference import block_of, reference_mask

TIMESTAMP, VISUAL = 8, 144
BLOCK, PREVIOUS = 4, 3
WIDTH, LAYERS = 256, 4
WAYS = ("one shot", "masked", "masked at once", "ours")
Values = list[Tensor]
"""Of each layer, (K, T, D)."""


def language() -> Language:
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=WIDTH,
        intermediate_size=1344,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=1,
        vocab_size=256,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    return Language(config).eval()


def video(stills: int) -> tuple[Tensor, Tensor]:
    """Return embeddings (T, E) of so many stills and which of them are text."""
    group = torch.tensor([True] * TIMESTAMP + [False] * VISUAL)
    anchors = group.repeat(stills // 4)
    return torch.randn(len(anchors), WIDTH), anchors


def plain(model: Language, x_TE: Tensor, mask_TT: Tensor | None) -> Values:
    """Read everything in one pass with transformers' own attention and cache."""
    model.decoder.set_attn_implementation("sdpa")
    mask = None if mask_TT is None else mask_TT[None, None]
    cache = model.decoder.model(inputs_embeds=x_TE[None], attention_mask=mask).past_key_values
    return [layer.values[0] for layer in cache.layers]


def one_shot(model: Language, x_TE: Tensor, anchors_T: Tensor) -> Values:
    return plain(model, x_TE, None)


def masked(model: Language, x_TE: Tensor, anchors_T: Tensor) -> Values:
    return plain(model, x_TE, built_by_the_reference(anchors_T))


def masked_at_once(model: Language, x_TE: Tensor, anchors_T: Tensor) -> Values:
    seen = reference_mask(anchors_T, block_of(anchors_T, BLOCK), PREVIOUS)
    return plain(model, x_TE, torch.zeros(seen.shape).masked_fill(~seen, -torch.inf))


def built_by_the_reference(anchors_T: Tensor) -> Tensor:
    """Build the mask in the reference's steps.

    Booleans block by block, then column and row of each timestamp token in a Python loop, an
    integer copy, and from it the floats that are added to the logits.
    """
    tokens = len(anchors_T)
    block = block_of(anchors_T, BLOCK)
    ends = torch.bincount(block).cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    seen = torch.zeros(tokens, tokens, dtype=torch.bool)
    for nth, (start, end) in enumerate(zip(starts, ends, strict=True)):
        seen[start:end, starts[max(0, nth - PREVIOUS)] : end] = True
    for at in anchors_T.nonzero()[:, 0].tolist():
        seen[at, :] = True
        seen[:, at] = True
    numbers = seen.tril().to(torch.int64)
    return (1.0 - numbers.to(torch.float32)) * -1e9


def ours(model: Language, x_TE: Tensor, anchors_T: Tensor) -> Values:
    model.decoder.set_attn_implementation("longwatch")
    cache, chunks = model.cache(), list[KVChunk]()
    tokens = BLOCK * (TIMESTAMP + VISUAL)
    for x, anchors in zip(x_TE.split(tokens), anchors_T.split(tokens), strict=True):
        lane = StreamSlice(0, len(x), cache, chunk_attention_blocks(anchors, cache, PREVIOUS))
        reading = ForwardContext(cache.length + torch.arange(len(x)), [lane])
        model.collect_keys_values(x[None], reading)
        chunks.append(reading.chunk(lane, anchors))
        cache.append(chunks[-1])
    return list(concatenate_chunks(chunks).values_NKTD)


@torch.inference_mode()
def measure(stills: list[int], repeats: int) -> dict[int, dict[str, float]]:
    """Return the median seconds of each way; ways and lengths take turns."""
    model = language()
    videos = {length: video(length) for length in stills}
    ways = dict(zip(WAYS, (one_shot, masked, masked_at_once, ours), strict=True))
    x_TE, anchors_T = videos[stills[0]]
    for theirs, our in zip(
        masked(model, x_TE, anchors_T), ours(model, x_TE, anchors_T), strict=True
    ):
        torch.testing.assert_close(our, theirs, atol=1e-4, rtol=0)
    times: dict[tuple[int, str], list[float]] = {}
    turns = [(length, name) for _ in range(repeats) for length in stills for name in ways]
    for length, name in track(turns, "prefilling", console=Console(stderr=True), transient=True):
        begin = time.process_time()
        ways[name](model, *videos[length])
        times.setdefault((length, name), []).append(time.process_time() - begin)
    return {
        length: {name: statistics.median(times[length, name]) for name in ways} for length in stills
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stills", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = measure(options.stills, options.repeats)
    if options.json:
        print(json.dumps(measured))
        return
    table = Table("stills", *WAYS, "masked / ours")
    for stills, row in measured.items():
        ratio = row["masked"] / row["ours"]
        table.add_row(str(stills), *(f"{row[way]:.3f} s" for way in WAYS), f"{ratio:.2f}")
    Console().print(table)
    if {128, 256, 512} <= measured.keys():
        speedup = measured[256]["masked"] / measured[256]["ours"]
        growth = measured[512]["ours"] / measured[128]["ours"] / 4
        print(f"speedup_at_256={speedup:.2f} growth_over_linear={growth:.2f}")


if __name__ == "__main__":
    main()
