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
from functools import partial
from pathlib import Path
from statistics import fmean

# Before this folder, in which a file would stand for a package.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from analyzer.kv.budget import MemoryPlan
from analyzer.kv.memory import UNLIMITED
from analyzer.models.loading import load_model
from analyzer.models.messages import WindowRun
from analyzer.models.runner import ModelRunner
from analyzer.nano.workshop.exam.clips import FRESH_SEEDS
from analyzer.nano.workshop.exam.measures import auc
from analyzer.nano.workshop.lessons.facts import visible_seconds
from analyzer.nano.workshop.lessons.lessons import ANOMALY_ASKS, KIND_ASKS
from analyzer.nano.workshop.renderer.events import EventKind
from analyzer.nano.workshop.scenes import random_scene
from analyzer.questions.question import Question
from bench.token_replay import STILLS, TokenReplayWatcher, empty_window

ASKS = [ANOMALY_ASKS[0], *(KIND_ASKS[kind][0] for kind in EventKind)]
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
        "focus, corrected": replace(ours, proportional_attention=True),
        "focus, 8 bits": replace(ours, int8=True),
        "no focus": replace(ours, focus=0),
        "no focus, corrected": replace(ours, focus=0, proportional_attention=True),
    }


def tokens_of(runner: ModelRunner, seed: int, windows: int) -> tuple[list[Tensor], list[bool]]:
    """Return the visual tokens of a scene, and what the answers should be at its end."""
    scene = random_scene(seed, windows * STILLS, rate=0.6)
    tokens, background = list[Tensor](), None
    for start in range(0, windows * STILLS, STILLS):
        jpegs = [scene.jpeg(float(start + s), 128, 85) for s in range(STILLS)]
        ((window,),) = runner.encode([WindowRun([jpegs], background)])
        tokens.append(window.tokens_GVE)
        background = window.background
    visible = visible_seconds(scene.events, (windows - 1) * STILLS, windows * STILLS)
    return tokens, [bool(visible), *(kind in visible for kind in EventKind)]


def margins(runner: ModelRunner, plan: MemoryPlan, tokens: list[Tensor]) -> list[float]:
    runner.proportional_attention = plan.proportional_attention
    watching = TokenReplayWatcher(runner, QUESTIONS, plan)
    watching.tokens = tokens
    for nth in range(len(tokens) - 1):
        watching.restore([empty_window(nth)])
    return [finding.margin for finding in watching.step(empty_window(len(tokens) - 1))]


def now_only(runner: ModelRunner, plan: MemoryPlan, tokens: list[Tensor]) -> list[float]:
    watching = TokenReplayWatcher(runner, [], plan)
    watching.tokens = tokens
    for nth in range(len(tokens)):
        watching.restore([empty_window(nth)])
    memory = watching.memory_of("dock")
    return runner.margins(ASKS, memory.context(UNLIMITED)[-plan.recent :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--windows", type=int, default=4, help="nano was taught on up to 4")
    parser.add_argument("--recent", type=int, default=2, help="windows held dense")
    parser.add_argument("--focus", type=int, default=1, help="older ones read in full")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runner = load_model("nano", "cpu")
    planned = plans(options.recent, options.focus)
    ways: dict[str, Callable[[list[Tensor]], list[float]]] = {
        name: partial(margins, runner, plan) for name, plan in planned.items()
    }
    ways["now only"] = lambda tokens: now_only(runner, planned["focus"], tokens)
    margins_by_plan: dict[str, list[list[float]]] = {name: [] for name in ways}
    truths = list[list[bool]]()
    clips = range(FRESH_SEEDS + 10_000, FRESH_SEEDS + 10_000 + options.clips)
    for seed in track(clips, "clips", console=Console(stderr=True)):
        tokens, truth = tokens_of(runner, seed, options.windows)
        truths.append(truth)
        for name, way in ways.items():
            margins_by_plan[name].append(way(tokens))
    rows = {
        name: _row(answers, margins_by_plan["all dense"], truths)
        for name, answers in margins_by_plan.items()
    }
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
    margins_by_plan: list[list[float]], dense: list[list[float]], truths: list[list[bool]]
) -> dict[str, float]:
    pairs = [
        (ours, told)
        for answers, tolds in zip(margins_by_plan, dense, strict=True)
        for ours, told in zip(answers, tolds, strict=True)
    ]
    return {
        "agrees": fmean((ours > 0) == (told > 0) for ours, told in pairs),
        "margin off by": fmean(abs(ours - told) for ours, told in pairs),
        "AUC anything": auc([a[0] for a in margins_by_plan], [t[0] for t in truths]),
        "AUC kinds": auc(
            [m for a in margins_by_plan for m in a[1:]], [t for row in truths for t in row[1:]]
        ),
    }


if __name__ == "__main__":
    main()
