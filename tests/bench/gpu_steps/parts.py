"""What the parts of a step cost: ceilings, vision, decoding, reading, the tiers, launches."""

import io
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import nn

from analyzer.kv.arena.arena import ArenaChunk
from analyzer.kv.cache import KVChunk
from analyzer.kv.int8 import Int8Chunk
from bench.gpu_steps.bench import Bench, Figures, giga
from bench.gpu_steps.clocks import Stopwatch, around
from bench.gpu_steps.counting import Profiles
from bench.gpu_steps.footage import Jpeg, footage
from bench.gpu_steps.model import runner_of
from bench.gpu_steps.site import LENGTH, QUESTIONS, STILLS, Site, plan_for, site_of, tokens_of
from kit.model.memory_bytes import tier_bytes
from kit.model.videoxl2 import videoxl2_of

GEMM, COPY, HOST = 8192, 2**30, 2**28
"""Side of a product, bytes of a copy on the card and from the host."""
SMALLER = 2**4
"""On a CPU a ceiling is measured on so much less."""
LAUNCHES = 1000
SIZES = ((640, 360), (1920, 1080))
LIMIT = 12.0
"""Seconds for each number of lanes in `reading`."""


def ceilings(bench: Bench) -> Figures:
    """Measure what this device does at most; later figures are compared with it."""
    less = 1 if bench.is_cuda else SMALLER
    figures: Figures = {
        "device": _name(bench),
        "torch": torch.__version__,
        "dtype": str(bench.dtype),
    }
    side = GEMM // less
    a, b = (torch.randn(side, side, device=bench.device).to(bench.dtype) for _ in range(2))
    x = torch.zeros(COPY // less**2, dtype=torch.int8, device=bench.device)
    y = torch.empty_like(x)
    gemm, copy = bench.ms(lambda: a @ b), bench.ms(lambda: y.copy_(x))
    bench.ceilings.flop_s = 2 * side**3 / gemm * 1e3
    bench.ceilings.copy_bytes_s = 2 * x.nbytes / copy * 1e3
    one = torch.zeros(1, device=bench.device)
    launches = bench.ms(lambda: [one.add_(1) for _ in range(LAUNCHES)])
    figures |= {
        "gemm_TFLOP_s": round(bench.ceilings.flop_s / 1e12, 2),
        "copy_TB_s": round(bench.ceilings.copy_bytes_s / 1e12, 3),
        "launch_us": round(1e3 * launches / LAUNCHES, 2),
    }
    return figures | (_transfers(bench) if bench.is_cuda else {})


def _name(bench: Bench) -> str:
    if not bench.is_cuda:
        return f"CPU, {torch.get_num_threads()} threads"
    card = torch.cuda.get_device_properties(bench.device)
    return f"{card.name}, {giga(card.total_memory)} GB, cuDNN {torch.backends.cudnn.version()}"


def _transfers(bench: Bench) -> Figures:
    """Return GB/s between the host and the card."""
    on_card = torch.empty(HOST, dtype=torch.int8, device=bench.device)
    figures: Figures = {}
    for kind, pin in (("pinned", True), ("pageable", False)):
        host = torch.empty(HOST, dtype=torch.int8, pin_memory=pin)
        to_card = bench.ms(partial(on_card.copy_, host))
        to_host = bench.ms(partial(host.copy_, on_card))
        figures |= {
            f"h2d_{kind}_GB_s": round(HOST / to_card / 1e6, 1),
            f"d2h_{kind}_GB_s": round(HOST / to_host / 1e6, 1),
        }
    return figures


def launches(bench: Bench) -> Figures:
    """Count what each pass of a step of 8 cameras starts, 64 s of memory behind it."""
    profiles, runner = Profiles(bench), bench.speaker
    lanes, asked = bench.sizes.lanes[0], QUESTIONS[:1]
    with site_of(bench, jpeg=bench.jpeg, lanes=lanes, questions=asked) as site:
        site.fill(bench.sizes.memory + 1)
        (batch,) = site.batches()
        with ExitStack() as stack:
            for name in ("encode", "prefill", "score"):
                stack.enter_context(around(runner, name, partial(profiles.under, name)))
            site.step(batch)
    return profiles.figures


def vision(bench: Bench) -> Figures:
    """Time the modules on the way from pixels to visual tokens, and the whole."""
    model, figures = videoxl2_of(bench.speaker), Figures()
    tower = model.vision_tower
    modules = {
        "tower": tower,
        "tower layers": tower.vision_model.encoder,
        **{
            f"dts {nth} {type(block).__name__}": block
            for nth, block in enumerate(model.sae.encoder)
        },
        "dts": model.sae,
        "projector": model.mm_projector,
    }
    for stills in (STILLS, STILLS * bench.sizes.lanes[0]):
        bench.clear()
        pixels = bench.pixels(stills)
        with torch.inference_mode():
            whole = bench.ms(partial(model.encode, pixels))
            parts = _hooked(bench, modules, partial(model.encode, pixels))
        figures[f"{stills} stills"] = {
            "ms": whole,
            "of_gemm": bench.of_gemm(stills * bench.work.still, whole / 1e3),
            "peak_GB": giga(bench.peak()),
            "parts_ms": {name: parts.get(name, "not called") for name in modules},
        }
    return figures


def _hooked(
    bench: Bench, modules: Mapping[str, nn.Module], work: Callable[[], object]
) -> dict[str, float]:
    """Return the milliseconds of modules in one pass, each waited for; outer ones hold inner."""
    watch, began = Stopwatch(bench), dict[str, ExitStack]()

    def enter(name: str) -> None:
        began[name] = ExitStack()
        began[name].enter_context(watch.timed(name))

    with ExitStack() as hooks:
        for name, module in modules.items():
            before = module.register_forward_pre_hook(lambda *_, name=name: enter(name))
            after = module.register_forward_hook(lambda *_, name=name: began[name].close())
            hooks.callback(before.remove)
            hooks.callback(after.remove)
        work()
    return {name: round(1e3 * took, 3) for name, took in watch.seconds.items()}


def decoding(bench: Bench) -> Figures:
    """Compare the product's way from JPEG to the model's input with what is there beside it."""
    figures: Figures = {}
    for width, height in (bench.sizes.still,) if bench.is_tiny else SIZES:
        jpeg = footage(width, height, 8)
        stills = [jpeg(nth) for nth in range(STILLS * bench.sizes.lanes[0])]
        figures[f"{width}x{height}, ms a still"] = {
            "kB": round(len(stills[0]) / 1e3),
            "product": _from_bytes(bench, jpeg),
            **_beside(bench, stills),
        }
    return figures


def _from_bytes(bench: Bench, jpeg: Jpeg) -> float:
    """Return what `encode` takes beside the model's own part, in milliseconds a still."""
    watch, runner, took = Stopwatch(bench), bench.speaker, list[float]()
    with site_of(bench, lanes=bench.sizes.lanes[0], jpeg=jpeg) as site:
        with watch.on(runner, "encode"), watch.on(runner.model, "encode", prefix="model "):
            for batch in site.batches(1 + bench.sizes.rounds):
                watch.seconds.clear()
                site.step(batch)
                took.append(watch.seconds["encode"] - watch.seconds["model encode"])
        stills = STILLS * len(site.cameras)
    return round(1e3 * statistics.median(took[1:]) / stills, 3)


def _beside(bench: Bench, stills: Sequence[bytes]) -> Figures:
    """Return the same of Pillow on one thread and on all, and of nvJPEG."""
    size, cores = (bench.config.width, bench.config.height), os.cpu_count() or 1

    def squash(jpeg: bytes) -> object:
        picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
        return picture.resize(size, Image.Resampling.BICUBIC)

    some = stills[:STILLS]
    with ThreadPoolExecutor(cores) as pool:
        together = bench.ms(lambda: list(pool.map(squash, stills)), 3, 1) / len(stills)
    return {
        "Pillow, one thread": round(bench.ms(lambda: [*map(squash, some)], 3, 1) / STILLS, 3),
        f"Pillow, {cores} threads": round(together, 3),
        "nvJPEG alone": _nvjpeg(bench, stills),
    }


def _nvjpeg(bench: Bench, stills: Sequence[bytes]) -> float | str:
    if not bench.is_cuda:
        return "needs a card"
    try:
        from torchvision.io import decode_jpeg
    except ImportError as error:
        return f"not to be had: {error}"
    raw = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in stills]
    took = bench.ms(lambda: decode_jpeg(raw, device=bench.device), 3, 1)
    return round(took / len(stills), 3)


def reading(bench: Bench) -> Figures:
    """Read and ask behind more and more windows, the past pooled, for one camera and eight."""
    figures: Figures = {}
    for lanes in (1, bench.sizes.lanes[0]):
        figures |= _growing(bench, lanes)
        bench.clear()
    return figures


def _growing(bench: Bench, lanes: int) -> Figures:
    watch, runner, figures = Stopwatch(bench), bench.speaker, Figures()
    marks = bench.sizes.marks
    plan = plan_for(marks[-1] + 1, 4, focus_horizon=4 * LENGTH)  # nothing waits on the host
    tokens = tokens_of(bench)
    with (
        site_of(bench, plan, lanes=lanes, questions=QUESTIONS[:1], tokens=tokens) as site,
        watch.on(runner, "prefill", "score"),
    ):
        took = list[Figures]()
        for behind, batch in enumerate(site.batches(marks[-1] + 1)):
            watch.seconds.clear()
            whole = bench.seconds(partial(site.step, batch))
            took.append({**watch.seconds, "step": whole})
            if behind in marks:
                figures[f"{lanes} lanes behind {behind}"] = _medians(took[-3:])
            if sum(each["step"] for each in took) > LIMIT:
                figures[f"{lanes} lanes behind {behind}, the limit"] = _medians(took[-3:])
                break
    return figures


def _medians(took: Sequence[Mapping[str, float]]) -> Figures:
    return {
        f"{name}_ms": round(1e3 * statistics.median(each[name] for each in took), 2)
        for name in took[-1]
    }


def arena(bench: Bench) -> Figures:
    """Compare the arena with the plain way on this device, as a speaker does at start."""
    began = time.monotonic()
    fault = bench.arena_fault
    return {"is_right": not fault, "fault": fault, "seconds": round(time.monotonic() - began, 1)}


def tiers(bench: Bench) -> Figures:
    """Time what changes the form of a chunk, and weigh what is pinned against the ledger."""
    figures: Figures = {}
    with site_of(bench, plan_for(9, 1), tokens=tokens_of(bench)) as site:
        site.fill(1)
        chunk = site.memory().chunks[-1].dense
        if isinstance(chunk, ArenaChunk):
            figures["pool_in_place_ms"] = _ms_or_error(bench, partial(chunk.pooled, 4))
            figures["restore_ms"] = _ms_or_error(bench, chunk.restored)
            chunk = chunk.restored()
        assert isinstance(chunk, KVChunk)
        figures["chunk_MB"] = round(chunk.nbytes / 1e6, 1)
        for name, work in _changes(site, chunk):
            figures[name] = _ms_or_error(bench, work)
        return figures | _on_the_host(site)


def _changes(site: Site, chunk: KVChunk) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "pool_ms", lambda: chunk.pooled(4)
    yield "int8_ms", lambda: Int8Chunk.quantise(chunk)
    yield "offload_ms", lambda: chunk.offloaded(site.slab)
    away = chunk.offloaded(site.slab)
    yield "fetch_ms", lambda: away.to(site.speaker.model.device)


def _ms_or_error(bench: Bench, work: Callable[[], object]) -> float | str:
    try:
        with torch.inference_mode():
            return bench.ms(work, 3, 1)
    except Exception as error:  # noqa: BLE001  one that fails costs the others nothing
        return f"{type(error).__name__}: {error}"[:160]


def _on_the_host(site: Site) -> Figures:
    """Return what memories take on the host over what their ledger says."""
    site.fill(8)
    ledger, slab = tier_bytes(site.memory()), site.slab
    waiting = ledger.focus + ledger.tokens
    return {
        "waiting_MB": round(waiting / 1e6, 1),
        "slab_used_over_ledger": round(slab.used_bytes / waiting, 3) if slab else None,
        "slab_over_ledger": round(slab.nbytes / waiting, 3) if slab else None,
        "slab_is_pinned": slab.is_pinned if slab else None,
    }


def warm_up(bench: Bench) -> Figures:
    """Compare the first steps of a fresh speaker with later ones, and count its graphs."""
    runner, tokens = runner_of(videoxl2_of(bench.speaker)), tokens_of(bench)
    options: dict[str, Any] = {
        "lanes": bench.sizes.lanes[0],
        "questions": QUESTIONS[:1],
        "tokens": tokens,
    }
    with Site(runner, arena=bench.uses_arena, **options) as site:
        took = [
            round(1e3 * bench.seconds(partial(site.step, batch)), 1)
            for batch in site.batches(bench.sizes.memory + 4)
        ]
        graphs = site.graphs
    return {"steps_ms": took, "graphs": graphs}
