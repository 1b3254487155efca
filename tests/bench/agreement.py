"""How often the bounded memory says the same as one that keeps everything dense.

Streams of fresh scenes, longer than what is held dense, go through nano; at the end of each
every question is asked. Against reading everything in full: the share of answers whose sign
agrees, the mean distance of the margins, and the area under the curve over "is anything
unusual?" and over the kinds.

    python tests/bench/agreement.py [--clips 200] [--windows 4] [--recent 2] [--focus 1] [--json]
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from statistics import fmean

# Before this folder, in which a file would stand for a package.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from bench.replayed import STILLS, Replayed, empty_window
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from analyzer.memory import FOREVER
from analyzer.nano.exam.clips import FRESH
from analyzer.nano.exam.measures import auc
from analyzer.nano.lessons import ABOUT, ANYTHING, seen
from analyzer.nano.scenes import Kind, random_scene
from analyzer.plan import MemoryPlan
from analyzer.questions import Question
from analyzer.videoxl2.checkpoint import load_model
from analyzer.videoxl2.speaker import Run, Speaker

ASKS = [ANYTHING[0], *(ABOUT[kind][0] for kind in Kind)]
QUESTIONS = [
    Question(name=f"q{n}", ask=ask, cameras=frozenset(), every=timedelta(hours=9), look_back=None)
    for n, ask in enumerate(ASKS)
]
LONG = timedelta(minutes=30)


def plans(recent: int, focus: int) -> dict[str, MemoryPlan]:
    ours = MemoryPlan(horizon=LONG, focus_horizon=LONG, recent=recent, focus=focus)
    return {
        "all dense": replace(ours, recent=999),
        "focus": ours,
        "focus, corrected": replace(ours, corrected=True),
        "focus, 8 bits": replace(ours, int8=True),
        "no focus": replace(ours, focus=0),
        "no focus, corrected": replace(ours, focus=0, corrected=True),
    }


def tokens_of(speaker: Speaker, seed: int, windows: int) -> tuple[list[Tensor], list[bool]]:
    """Return the visual tokens of a scene, and what the answers should be at its end."""
    scene = random_scene(seed, windows * STILLS, rate=0.6)
    tokens, background = list[Tensor](), None
    for start in range(0, windows * STILLS, STILLS):
        jpegs = [scene.jpeg(float(start + s), 128, 85) for s in range(STILLS)]
        ((window,),) = speaker.see([Run([jpegs], background)])
        tokens.append(window.tokens_GVE)
        background = window.background
    visible = seen(scene.events, (windows - 1) * STILLS, windows * STILLS)
    return tokens, [bool(visible), *(kind in visible for kind in Kind)]


def margins(speaker: Speaker, plan: MemoryPlan, tokens: list[Tensor]) -> list[float]:
    speaker.corrected = plan.corrected
    watching = Replayed(speaker, QUESTIONS, plan)
    watching.tokens = tokens
    for nth in range(len(tokens) - 1):
        watching.rehearse([empty_window(nth)])
    return [finding.margin for finding in watching.step(empty_window(len(tokens) - 1))]


def now_only(speaker: Speaker, plan: MemoryPlan, tokens: list[Tensor]) -> list[float]:
    watching = Replayed(speaker, [], plan)
    watching.tokens = tokens
    for nth in range(len(tokens)):
        watching.rehearse([empty_window(nth)])
    memory = watching.memory_of("dock")
    return speaker.margins(ASKS, memory.view(FOREVER)[-plan.recent :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--windows", type=int, default=4, help="nano was taught on up to 4")
    parser.add_argument("--recent", type=int, default=2, help="windows held dense")
    parser.add_argument("--focus", type=int, default=1, help="older ones read in full")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    speaker = load_model("nano", "cpu")
    planned = plans(options.recent, options.focus)
    ways: dict[str, Callable[[list[Tensor]], list[float]]] = {
        name: lambda tokens, plan=plan: margins(speaker, plan, tokens)
        for name, plan in planned.items()
    }
    ways["now only"] = lambda tokens: now_only(speaker, planned["focus"], tokens)
    said: dict[str, list[list[float]]] = {name: [] for name in ways}
    truths = list[list[bool]]()
    clips = range(FRESH + 10_000, FRESH + 10_000 + options.clips)
    for seed in track(clips, "clips", console=Console(stderr=True)):
        tokens, truth = tokens_of(speaker, seed, options.windows)
        truths.append(truth)
        for name, way in ways.items():
            said[name].append(way(tokens))
    rows = {name: _row(answers, said["all dense"], truths) for name, answers in said.items()}
    if options.json:
        print(json.dumps(rows))
        return
    columns = ("agrees", "margin off by", "AUC anything", "AUC kinds")
    table = Table("reading", *columns)
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]:.3f}" for column in columns))
    Console().print(table)
    print(
        " ".join(
            f"{name.replace(', ', '_').replace(' ', '_')}={row['agrees']:.4f}"
            for name, row in rows.items()
        )
    )


def _row(
    said: list[list[float]], dense: list[list[float]], truths: list[list[bool]]
) -> dict[str, float]:
    pairs = [
        (ours, told)
        for answers, tolds in zip(said, dense, strict=True)
        for ours, told in zip(answers, tolds, strict=True)
    ]
    return {
        "agrees": fmean((ours > 0) == (told > 0) for ours, told in pairs),
        "margin off by": fmean(abs(ours - told) for ours, told in pairs),
        "AUC anything": auc([a[0] for a in said], [t[0] for t in truths]),
        "AUC kinds": auc([m for a in said for m in a[1:]], [t for row in truths for t in row[1:]]),
    }


if __name__ == "__main__":
    main()
