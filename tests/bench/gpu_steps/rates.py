"""The published figures: cameras a card carries, a question's pass, long videos held in full."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

import torch

from analyzer.kv.budget import MAX_WINDOWS_PER_STEP
from bench.gpu_steps.bench import Bench, Figures, giga
from bench.gpu_steps.clocks import Stopwatch
from bench.gpu_steps.site import (
    LENGTH,
    QUESTIONS,
    STILLS,
    Site,
    fitting,
    plan_for,
    site_of,
    tiers,
    tokens_of,
)
from kit.model.memory_bytes import tier_bytes
from kit.model.videoxl2 import videoxl2_of
from storage.records.records import Window

ONE, TEN = 1, 10
SMALL_CARD = 24.6e9
TOGETHER, APART = "together", "one by one"


def cameras(bench: Bench) -> Figures:
    """Take steps from JPEG bytes with the memory of 64 s full, and say what follows of it."""
    figures: Figures = {}
    for lanes in bench.sizes.lanes:
        with site_of(bench, jpeg=bench.jpeg, lanes=lanes) as site:
            site.fill(bench.sizes.memory)
            for count in (ONE, TEN):
                site.ask(QUESTIONS[:count])
                figures[f"{lanes} lanes, {count} questions"] = _rate(bench, site, count)
            if lanes == bench.sizes.lanes[0]:
                figures["split"] = {f"{n} questions": _split(bench, site, n) for n in (ONE, TEN)}
                figures["memory of a camera"] = tiers(tier_bytes(site.memory()))
        bench.clear()
    return figures


def _rate(bench: Bench, site: Site, questions: int) -> Figures:
    """Return the time of a round over all lanes, the cameras at 1 fps, and what fits."""
    lanes = len(site.cameras)
    rounds, warm = (
        (bench.sizes.rounds, bench.sizes.warm) if lanes <= MAX_WINDOWS_PER_STEP else (2, 1)
    )
    bench.clear()
    held = torch.cuda.memory_allocated(bench.device) if bench.is_cuda else 0
    batches = list(site.batches(warm + rounds))
    each = len(batches) // (warm + rounds)
    site.round(batches[: warm * each])
    took, found = list[float](), list[int]()

    def count_found(turn: list[list[Window]]) -> None:
        found.append(len(site.round(turn)))

    for nth in range(warm, warm + rounds):
        turn = batches[nth * each : (nth + 1) * each]
        took.append(bench.seconds(partial(count_found, turn)))
    seconds = statistics.median(took)
    return {
        "step_ms": round(1e3 * seconds / each, 1),
        "cameras": round(STILLS * lanes / seconds),
        "of_gemm": bench.of_gemm(bench.work.step(lanes, questions), seconds),
        "answers": f"{sum(found)} of {rounds * lanes * questions}",
        **fitting(bench, site, (bench.peak() or 0) - held),
    }


def _split(bench: Bench, site: Site, questions: int) -> Figures:
    """Return the milliseconds of the parts of a step, each waited for; decoding is in `encode`."""
    site.ask(QUESTIONS[:questions])
    watch, runner = Stopwatch(bench), site.speaker
    with (
        watch.on(runner, "encode", "prefill", "score"),
        watch.on(runner.model, "encode", prefix="model "),
    ):
        batches = list(site.batches(bench.sizes.rounds))
        whole = sum(bench.seconds(partial(site.step, batch)) for batch in batches)
    parts = {name: watch.seconds.get(name, 0.0) for name in ("encode", "prefill", "score")}
    inside = watch.seconds.get("model encode", 0.0)
    rest = whole - sum(parts.values())
    named = {
        "decode": parts["encode"] - inside,
        **parts,
        "encode": inside,
        "rest": rest,
        "all": whole,
    }
    return {f"{name}_ms": round(1e3 * took / len(batches), 2) for name, took in named.items()}


def ask_p95(bench: Bench) -> Figures:
    """Repeat the last pass of questions of a full memory of 64 s."""
    figures: Figures = {}
    for lanes in (1, bench.sizes.lanes[0]):
        for count in (ONE, TEN):
            with site_of(bench, tokens=tokens_of(bench), lanes=lanes) as site:
                site.fill(bench.sizes.memory)
                site.ask(QUESTIONS[:count])
                again = site.question().again
                bench.ms(again, repeat=bench.sizes.warm)  # so that graphs are captured
                took = [1e3 * bench.seconds(again) for _ in range(bench.sizes.passes)]
            cuts = statistics.quantiles(took, n=20, method="inclusive")
            figures[f"{lanes} cameras, {count} questions"] = {
                "p50_ms": round(statistics.median(took), 2),
                "p95_ms": round(cuts[-1], 2),
                "of_gemm": bench.of_gemm(
                    lanes * count * bench.work.question, statistics.median(took) / 1e3
                ),
            }
    return figures


def headline_2048(bench: Bench) -> Figures:
    """Hold 2,048 stills of one camera in full, from JPEG bytes, and ask about them."""
    return _stream(bench, bench.sizes.headline, limit=40)


def headline_10000(bench: Bench) -> Figures:
    """Hold 9,984 stills of one camera in full, from JPEG bytes, and ask about them."""
    return _stream(bench, bench.sizes.long, limit=75)


def small_card(bench: Bench) -> Figures:
    """Hold 1,024 stills in full on a card that has no more than 24.6 GB."""
    bench.need_card()
    bench.clear()
    torch.cuda.set_per_process_memory_fraction(min(1.0, SMALL_CARD / bench.total_memory))
    try:
        return _stream(bench, bench.sizes.small, limit=25)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _stream(bench: Bench, windows: int, limit: float) -> Figures:
    """Remember a stream a batch at a time until it is over or the limit is reached; then ask."""
    took, held = list[float](), 0
    with site_of(bench, plan_for(windows + 2, windows + 2), jpeg=bench.jpeg) as site:
        bench.clear()
        stream = (batch[0] for batch in site.batches(windows))
        while batch := list(islice(stream, MAX_WINDOWS_PER_STEP)):
            took.append(bench.seconds(partial(site.rehearse, batch)))
            held += len(batch)
            if sum(took) > limit:
                break
        seconds, peak = sum(took), bench.peak()
        site.ask(QUESTIONS[:ONE])
        again = site.question().again
        asked = bench.ms(again, repeat=bench.sizes.rounds)
        ledger, chunks = tier_bytes(site.memory()), len(site.memory().chunks)
    work = bench.work
    return {
        "stills": STILLS * held,
        "of_stills": STILLS * windows,
        "seconds": round(seconds, 2),
        "arena": bench.uses_arena,
        "windows_held": chunks,
        "batch_ms": [round(1e3 * t, 1) for t in took[:: max(1, len(took) // 8)]],
        "question_ms": asked,
        "question_of_copy": bench.of_copy(ledger.recent + _decoder(bench), asked / 1e3),
        "of_gemm": bench.of_gemm(work.stream(held), seconds),
        "peak_GB": giga(peak),
        **tiers(ledger),
    }


def _decoder(bench: Bench) -> int:
    """Return the bytes of the weights that a question reads."""
    decoder = videoxl2_of(bench.speaker).language.decoder
    return sum(weight.nbytes for weight in decoder.model.parameters())


def rehearsal(bench: Bench) -> Figures:
    """Rehearse 10 minutes of 8 cameras, one window after the other and together."""
    lanes, windows = bench.sizes.lanes[0], bench.sizes.horizon
    plan = plan_for(windows, 4)
    with site_of(bench, plan, jpeg=bench.jpeg, lanes=lanes) as site:
        figures: Figures = {"windows": lanes * windows}

        def alone(batch: Sequence[Window]) -> None:
            for window in batch:
                site.rehearse([window])

        figures[APART] = _rehearsed(bench, site, alone, limit=8)
        for camera in site.cameras:
            site.watcher.forget(camera)
        figures[TOGETHER] = _rehearsed(bench, site, site.rehearse, limit=20)
        slow, fast = figures[APART]["window_ms"], figures[TOGETHER]["window_ms"]
        figures["times_faster"] = round(slow / fast, 2)
    return figures


def _rehearsed(
    bench: Bench, site: Site, rehearse: Callable[[Sequence[Window]], None], limit: float
) -> Figures:
    """Return what a window takes, as far as the stream gets within the limit."""
    took, ends = list[float](), time.monotonic() + limit
    for batch in site.batches(site.watcher.plan.horizon // LENGTH):
        took.append(bench.seconds(partial(rehearse, batch)))
        if time.monotonic() > ends:
            break
    windows = len(took) * min(MAX_WINDOWS_PER_STEP, len(site.cameras))
    return {
        "windows": windows,
        "seconds": round(sum(took), 2),
        "window_ms": round(1e3 * sum(took) / windows, 2),
        "of_gemm": bench.of_gemm(
            windows * (STILLS * bench.work.still + bench.work.window), sum(took)
        ),
    }


def second_look(bench: Bench) -> Figures:
    """Take a step of 8 cameras in which every answer turns to yes, so that all look again."""
    figures: Figures = {}
    lanes = bench.sizes.lanes[0]
    with site_of(bench, tokens=tokens_of(bench), lanes=lanes, spare=lanes) as site:
        site.fill(bench.sizes.memory)
        for count in (ONE, TEN):
            site.ask(QUESTIONS[:count])
            for yes in (False, True):
                site.answer(yes)
                (batch,) = site.batches()
                took = bench.seconds(partial(site.step, batch))
                answer = "turns to yes" if yes else "is no"
                figures[f"{count} questions, every answer {answer}"] = round(1e3 * took, 1)
    return {"step_ms, vision left out": figures}
