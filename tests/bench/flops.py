"""What the 8B model costs at its real size: operations and bytes, counted without a GPU.

The published shapes run on torch's meta device, which works out shapes and no numbers, under
torch's FlopCounterMode: two operations for each multiplication of a matrix product or a
convolution, none for what is elementwise. Attention counts in full for everybody, also where a
causal kernel would skip half of it (one shot); under the reference's mask it is dense anyway.

One more chunk is 16 stills at one a second; a question is 20 tokens, its answer the first token.
The reference keeps nothing from one pass to the next: it sees and reads every still again, with
transformers' own attention. With bi-granularity it then reads the question a second time, behind
keys and values of which three fifths are left, as with the published selections. This is its
evaluation code; the streaming code beside the published weights is not known here. Ours
sees and reads only what is new, behind what it holds:

- dense: everything in full, which gives the keys, values and answers of the reference's chunks;
- bi-granularity: chunks the same, questions behind the reference's selection, which gives the
  answers of its bi-granularity;
- past pooled: chunks and questions behind the last chunks in full and all older ones pooled,
  which no reference way does. (Finding out what to focus on is one more reading, not counted.)

Keys and values (KV) are bfloat16: those kept for later, and all that exist while a question is
read. Ours are laid into a cache for that, a copy; the reference merges a dense and a pooled copy
into a third. The masks are those that the reference makes one from another.

    python tests/bench/flops.py [--stills 0 512 2048 10000] [--json]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from kit.model.text_logits import text_logits

# Before this folder, in which a file would stand for a package.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from analyzer.kv.cache import KVCache, KVChunk
from analyzer.models.videoxl2.config import STILLS_PER_GROUP, VideoXL2Config
from analyzer.models.videoxl2.model import VideoXL2
from analyzer.models.videoxl2.prompt import timestamp
from kit.model.checkpoints import PUBLISHED, write_json
from kit.model.granularity import GROUPS_PER_UNIT, dense_chunks

CHUNK = 16
GROUPS = CHUNK // STILLS_PER_GROUP
PREFIX, QUESTION = 14, 20
COMPRESSION, KEPT = 4, 0.6
ONE_SHOT, MASKED, MERGED = "one shot", "reference chunk", "reference bi-granularity"
DENSE, SAME, POOLED = "ours, dense", "ours, bi-granularity", "ours, past pooled"
WIDTH = 120
"""Of the table where there is no terminal."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class PassCost:
    """Operations of the way from pixels to visual tokens, and of the decoder."""

    vision: int
    decoder: int

    @property
    def both(self) -> int:
        return self.vision + self.decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class WayCost:
    """What one way costs behind so many stills; behind none there is nothing to ask about.

    `kept`, `held` and `masks` are bytes: of KV for later, of all KV while a question is read,
    and of the masks for it.
    """

    stills: int
    way: str
    chunk: PassCost
    question: PassCost | None = None
    kept: int = 0
    held: int = 0
    masks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheView:
    """What one of our ways reads behind, and what it keeps to do so.

    `laid` are the chunks in the cache for a question.
    """

    way: str
    chunk: KVCache
    question: KVCache
    laid: Sequence[KVChunk]
    kept: Sequence[KVChunk]


def published() -> VideoXL2:
    """Return the 8B model without its numbers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        write_json(path, PUBLISHED)
        return shapes_of(VideoXL2Config.read(path))


def shapes_of(config: VideoXL2Config) -> VideoXL2:
    """Return a model on the meta device."""
    with torch.device("meta"):
        return VideoXL2(config).bfloat16().eval()


def count(work: Callable[[], Result]) -> tuple[int, Result]:
    """Return how many operations some work on the meta device takes, and its result."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        result = work()
    return counter.get_total_flops(), result


def text(tokens: int) -> Tensor:
    """Return the marks of so many tokens of text."""
    return torch.ones(tokens, dtype=torch.bool)


def video(config: VideoXL2Config, begin: int, end: int) -> Tensor:
    """Return which tokens of some stills, one a second, are text.

    Qwen has one token for "Time" and one for each other character of a timestamp.
    """
    marks = [text(0)]
    for still in range(begin, end, STILLS_PER_GROUP):
        stamp = timestamp(float(still)).removeprefix("Time")
        marks += [text(1 + len(stamp)), ~text(config.tokens_per_group)]
    return torch.cat(marks)


def embeddings(model: VideoXL2, tokens: int) -> Tensor:
    width = model.language.config.hidden_size
    return torch.empty(tokens, width, dtype=torch.bfloat16, device="meta")


def remembered(model: VideoXL2, anchors_T: Tensor) -> KVChunk:
    """Return a chunk of the model's shape."""
    config = model.language.config
    width = config.hidden_size // config.num_attention_heads
    assert config.num_key_value_heads is not None
    shape = config.num_hidden_layers, config.num_key_value_heads, len(anchors_T), width
    keys, values = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for _ in range(2))
    return KVChunk(keys, values, anchors_T)


def count_vision(model: VideoXL2, stills: int) -> int:
    """Count the way from pixels to visual tokens."""
    if not stills:
        return 0
    side = model.config.height, model.config.width
    pixels = torch.empty(stills, 3, *side, dtype=torch.bfloat16, device="meta")
    return count(lambda: model.encode(pixels))[0]


def count_reference_pass(
    model: VideoXL2, anchors_T: Tensor, is_masked: bool
) -> tuple[int, KVChunk]:
    """Count one pass over everything, as the reference does it, to the logits of its last token."""
    decoder, tokens = model.language.decoder, len(anchors_T)
    decoder.set_attn_implementation("sdpa")
    mask_TT = torch.empty(1, 1, tokens, tokens, dtype=torch.bfloat16, device="meta")

    def work() -> KVChunk:
        x_BTE = embeddings(model, tokens)[None]
        out = decoder.model(inputs_embeds=x_BTE, attention_mask=mask_TT if is_masked else None)
        decoder.lm_head(out.last_hidden_state[:, -1:])
        layers = out.past_key_values.layers
        keys, values = ([getattr(layer, kind) for layer in layers] for kind in ("keys", "values"))
        return KVChunk(torch.cat(keys), torch.cat(values), anchors_T)

    counted = count(work)
    decoder.set_attn_implementation("longwatch")
    return counted


def ask(model: VideoXL2, cache: KVCache) -> int:
    """Count the reading of a question."""
    return count(lambda: text_logits(model, [[0] * QUESTION], cache))[0]


def prefill(model: VideoXL2, anchors_T: Tensor, cache: KVCache) -> int:
    """Count the reading of a chunk."""
    x_TE = embeddings(model, len(anchors_T))
    return count(lambda: model.prefill(x_TE, anchors_T, cache))[0]


def selection(chunks: Sequence[KVChunk], pooled: Sequence[KVChunk]) -> frozenset[int]:
    """Return the fewest chunks, evenly spread, that leave as much as the published selections."""
    dense, sparse = [len(chunk) for chunk in chunks], [len(chunk) for chunk in pooled]
    for number in range(1, len(chunks) + 1):
        selected = [nth * len(chunks) // number for nth in range(number)]
        units = [chunk * GROUPS // GROUPS_PER_UNIT for chunk in selected]
        full = dense_chunks(units, GROUPS, len(chunks))
        left = sum(dense[nth] if nth in full else sparse[nth] for nth in range(len(chunks)))
        if left >= KEPT * sum(dense):
            return full
    return frozenset()


def chosen(
    chunks: Sequence[KVChunk], pooled: Sequence[KVChunk], dense: Collection[int]
) -> list[KVChunk]:
    return [chunk if nth in dense else pooled[nth] for nth, chunk in enumerate(chunks)]


def weigh(chunks: Sequence[KVChunk]) -> int:
    return sum(chunk.keys_NKTD.nbytes + chunk.values_NKTD.nbytes for chunk in chunks)


def references(model: VideoXL2, stills: int) -> Iterator[WayCost]:
    """Yield what the three ways of the reference cost."""
    before, now = (
        torch.cat([text(PREFIX), video(model.config, 0, end)]) for end in (stills, stills + CHUNK)
    )
    seen, seen_now = (count_vision(model, end) for end in (stills, stills + CHUNK))
    for way in (ONE_SHOT, MASKED):
        is_masked = way == MASKED
        decoder, _ = count_reference_pass(model, now, is_masked)
        cost = WayCost(stills=stills, way=way, chunk=PassCost(vision=seen_now, decoder=decoder))
        if stills:
            asked = torch.cat([before, text(QUESTION)])
            decoder, whole = count_reference_pass(model, asked, is_masked)
            question = PassCost(vision=seen, decoder=decoder)
            masks = masks_for(len(asked)) if is_masked else 0
            cost = replace(cost, question=question, held=weigh([whole]), masks=masks)
        yield cost
    yield merged(model, cost, whole) if stills else replace(cost, way=MERGED)


def masks_for(tokens: int) -> int:
    """Return the bytes of the masks that the reference makes one from another."""
    kinds = torch.bool, torch.int64, torch.float32, torch.float16
    return sum(torch.empty(tokens, tokens, dtype=d, device="meta").nbytes for d in kinds)


def merged(model: VideoXL2, masked: WayCost, whole: KVChunk) -> WayCost:
    """Return what reading the question a second time makes of the cost of the first."""
    prefix, blocks = cut(whole, 0, PREFIX), cut(whole, PREFIX, -QUESTION).split_groups(GROUPS)
    pooled = [block.pooled(COMPRESSION) for block in blocks]
    left = [prefix, *chosen(blocks, pooled, selection(blocks, pooled))]
    first = masked.question
    assert first is not None
    question = replace(first, decoder=first.decoder + ask(model, model.cache(left)))
    return replace(masked, way=MERGED, question=question, held=weigh([whole, *pooled, *left]))


def cut(chunk: KVChunk, begin: int, end: int) -> KVChunk:
    part = slice(begin, end)
    keys, values = chunk.keys_NKTD[:, :, part], chunk.values_NKTD[:, :, part]
    return KVChunk(keys, values, chunk.anchors_T[part])


def ours(model: VideoXL2, stills: int) -> Iterator[WayCost]:
    """Yield what our ways cost."""
    seen, marks = count_vision(model, CHUNK), video(model.config, stills, stills + CHUNK)
    for view in views(model, stills):
        chunk = PassCost(vision=seen, decoder=prefill(model, marks, view.chunk))
        cost = WayCost(stills=stills, way=view.way, chunk=chunk, kept=weigh(view.kept))
        if stills:
            question = PassCost(vision=0, decoder=ask(model, view.question))
            cost = replace(cost, question=question, held=cost.kept + weigh(view.laid))
        yield cost


def views(model: VideoXL2, stills: int) -> list[CacheView]:
    """Return what our ways hold behind so many stills."""
    prefix, begins = remembered(model, text(PREFIX)), range(0, stills, CHUNK)
    chunks = [remembered(model, video(model.config, at, at + CHUNK)) for at in begins]
    pooled = [chunk.pooled(COMPRESSION) for chunk in chunks]
    recent = range(max(0, len(chunks) - model.config.previous), len(chunks))
    full, selected, late = (
        [prefix, *chosen(chunks, pooled, dense)]
        for dense in (range(len(chunks)), selection(chunks, pooled), recent)
    )
    last = [prefix, *(chunks[nth] for nth in recent)]
    dense, merged, past_pooled = (model.cache(laid) for laid in (full, selected, late))
    return [
        CacheView(way=DENSE, chunk=dense, question=dense, laid=full, kept=full),
        CacheView(way=SAME, chunk=dense, question=merged, laid=selected, kept=[*full, *pooled]),
        CacheView(
            way=POOLED, chunk=past_pooled, question=past_pooled, laid=late, kept=[*last, *pooled]
        ),
    ]


def tera(operations: int) -> str:
    return f"{operations / 1e12:,.2f}" if operations < 1e14 else f"{operations / 1e12:,.0f}"


def giga(size: int) -> str:
    return f"{size / 1e9:,.2f}" if size else "-"


HEAD = (
    "chunk\nvision\nTFLOP",
    "chunk\ndecoder\nTFLOP",
    "question\nvision\nTFLOP",
    "question\ndecoder\nTFLOP",
    "KV\nkept\nGB",
    "KV while\nasked\nGB",
    "\nmasks\nGB",
    "chunk\ntimes\nless",
    "question\ntimes\nless",
)


def cost_table(costs: Sequence[WayCost]) -> Table:
    """Return the table; its last columns say how many times less than the baseline."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("way", no_wrap=True)
    for name in HEAD:
        table.add_column(name, justify="right")
    for stills, baseline in baselines(costs).items():
        table.add_section()
        table.add_row(f"{stills:,} stills behind", style="bold")
        for cost in costs:
            if cost.stills == stills:
                table.add_row(f"  {cost.way}", *cells(cost, baseline))
    return table


def cells(cost: WayCost, baseline: WayCost) -> list[str]:
    asked, times = cost.question, fewer(baseline, cost)
    return [
        tera(cost.chunk.vision),
        tera(cost.chunk.decoder),
        tera(asked.vision) if asked else "-",
        tera(asked.decoder) if asked else "-",
        giga(cost.kept),
        giga(cost.held),
        giga(cost.masks),
        *(f"{number:,.1f}" for number in times),
    ]


def baselines(costs: Sequence[WayCost]) -> dict[int, WayCost]:
    """Return what the reference's bi-granularity costs behind so many stills."""
    return {cost.stills: cost for cost in costs if cost.way == MERGED}


def fewer(baseline: WayCost, cost: WayCost) -> list[float]:
    """Return how many times the operations the baseline takes, for a chunk and a question."""
    times = [baseline.chunk.both / cost.chunk.both]
    if baseline.question and cost.question:
        times.append(baseline.question.both / cost.question.both)
    return times


def ratios(costs: Sequence[WayCost]) -> dict[str, float]:
    """Return how many times less ours takes than the reference, to the same answers."""
    return {
        f"{name}_at_{cost.stills}": times
        for cost in costs
        if cost.way == SAME
        for name, times in zip(
            ("one_more_chunk", "question"), fewer(baselines(costs)[cost.stills], cost), strict=False
        )
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stills", type=int, nargs="+", default=[0, 512, 2048, 10_000])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if any(stills < 0 or stills % CHUNK for stills in options.stills):
        parser.error(f"--stills takes multiples of {CHUNK}")
    model, costs = published(), list[WayCost]()
    console = Console(stderr=True)
    for stills in track(options.stills, "counting", console=console, transient=True):
        costs += [*references(model, stills), *ours(model, stills)]
    if options.json:
        print(json.dumps({"costs": [asdict(c) for c in costs], "times_less": ratios(costs)}))
        return
    screen = Console()
    wide = screen if screen.is_terminal else Console(width=WIDTH)
    wide.print(f"vision of one still: {tera(count_vision(model, CHUNK) // CHUNK)} TFLOP")
    wide.print(cost_table(costs))
    print(" ".join(f"{name}={times:.1f}x" for name, times in ratios(costs).items()))


if __name__ == "__main__":
    main()
