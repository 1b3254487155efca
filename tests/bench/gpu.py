"""Every figure that one card gives of longwatch, the surest and most wanted first.

    python tests/bench/gpu.py                      # on the first card
    python tests/bench/gpu.py --device cpu --tiny  # the same steps in small, to see that they run

A step prints one line of JSON, also to $OUT/figures.jsonl where OUT is set. One that fails is a
line, too, and costs the others nothing; one that does not fit into the time left is passed over.
The model has the published 8B shapes and random weights, whose every answer is no. Stills are
JPEG bytes, 640x360, under sensor noise. `of_gemm` is the operations of a pass over those that a
matrix product did in the same time in this run, `of_copy` the bytes over those that a copy moved.

After an error from which a CUDA context does not recover, the steps that are left go on in a
fresh process.
"""

import argparse
import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

# Before this folder, in which a file would stand for a package.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from bench.gpu_steps.bench import Bench, Figures, NeedsCard, keep_stdout_for_figures

TIME = 270.0
GRACE = 30.0
"""Seconds after its time at which a run that hangs is ended."""
DTYPES = ("auto", "float16", "bfloat16", "float32")
CEILINGS = "ceilings"


@dataclass(frozen=True, slots=True)
class BenchStep:
    """One line: its name, the module of its function, and the seconds that it may need."""

    name: str
    module: str
    seconds: float


STEPS = (
    BenchStep(CEILINGS, "parts", 10),
    BenchStep("golden", "golden", 15),
    BenchStep("nano", "agreement", 20),
    BenchStep("kernels", "agreement", 15),
    BenchStep("arena", "parts", 15),
    BenchStep("cameras", "rates", 45),
    BenchStep("ask_p95", "rates", 15),
    BenchStep("headline_2048", "rates", 20),
    BenchStep("headline_10000", "rates", 65),
    BenchStep("small_card", "rates", 15),
    BenchStep("launches", "parts", 15),
    BenchStep("vision", "parts", 10),
    BenchStep("decoding", "parts", 15),
    BenchStep("reading", "parts", 30),
    BenchStep("tiers", "parts", 8),
    BenchStep("rolling", "agreement", 20),
    BenchStep("rehearsal", "rates", 30),
    BenchStep("second_look", "rates", 12),
    BenchStep("warm_up", "parts", 8),
)


def run(bench: Bench, step: BenchStep) -> bool:
    """Take a step and write its line; return whether the device can still be used."""
    if bench.left < step.seconds:
        why = f"{bench.left:.0f} s left, {step.seconds:.0f} needed"
        bench.write(step.name, {"passed_over": why})
        return True
    began, is_lost = time.monotonic(), False
    try:
        figures: Figures = getattr(import_module(f"bench.gpu_steps.{step.module}"), step.name)(
            bench
        )
    except NeedsCard:
        figures = {"passed_over": "needs a card"}
    except Exception as error:  # noqa: BLE001  a step that fails is a line, too
        is_lost = "CUDA error" in str(error)
        where = traceback.format_exc()[-900:]
        figures = {"failed": f"{type(error).__name__}: {error}"[:500], "where": where}
    bench.write(step.name, {"took": round(time.monotonic() - began, 1), **figures})
    if not is_lost:
        bench.clear()
    return not is_lost


def go_on(bench: Bench, options: argparse.Namespace, steps: Sequence[BenchStep]) -> None:
    """Take the steps that are left in a fresh process."""
    names = dict.fromkeys([CEILINGS, *(step.name for step in steps)])
    changed = ["--steps", ",".join(names), "--seconds", f"{bench.left:.0f}"]
    kept = ["--device", options.device, "--dtype", options.dtype]
    kept += [flag for flag in ("--plain", "--tiny") if getattr(options, flag[2:])]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, __file__, *kept, *changed])


def bench_of(options: argparse.Namespace) -> Bench:
    device = torch.device(options.device)
    usual = "float16" if device.type == "cuda" else "float32"
    dtype = getattr(torch, usual if options.dtype == "auto" else options.dtype)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    ends = time.monotonic() + options.seconds
    return Bench(
        device=device,
        dtype=dtype,
        is_tiny=options.tiny,
        ends=ends,
        wants_arena=not options.plain,
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tiny", action="store_true", help="small shapes and few repeats")
    parser.add_argument("--plain", action="store_true", help="without the arena")
    parser.add_argument("--dtype", default="auto", choices=DTYPES, help="float16 on a card")
    parser.add_argument("--seconds", type=float, default=TIME)
    parser.add_argument("--steps", default="", help="only these, as a,b")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    wanted = options.steps.split(",") if options.steps else [step.name for step in STEPS]
    unknown = set(wanted) - {step.name for step in STEPS}
    if unknown:
        sys.exit(f"no such step: {', '.join(sorted(unknown))}")
    faulthandler.dump_traceback_later(options.seconds + GRACE, exit=True)
    keep_stdout_for_figures()
    bench = bench_of(options)
    left = [step for step in STEPS if step.name in wanted]
    while left:
        step = left.pop(0)
        if not run(bench, step) and left:
            go_on(bench, options, left)


if __name__ == "__main__":
    main()
