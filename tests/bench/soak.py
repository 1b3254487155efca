"""100,000 stills of a scene that never changes through one memory: nothing may grow or drift.

More than a day at a still a second, with every window answered. The last line says how much the
resident memory of the last tenth differs from that of a tenth after two epochs, the longest
memory ever read in tokens, how many epochs began, and how many answers changed their sign once
the memory was full.

    python tests/bench/soak.py [--stills 100000]
"""

import argparse
import sys
from datetime import timedelta
from pathlib import Path
from statistics import fmean

# Before this folder, in which a file would stand for a package.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from rich.console import Console
from rich.progress import track

from analyzer.kv.budget import MemoryPlan, camera_budget
from analyzer.kv.memory import UNLIMITED
from analyzer.models.loading import load_model
from analyzer.models.messages import WindowRun
from analyzer.nano.workshop.lessons.lessons import ANOMALY_ASKS, KIND_ASKS
from analyzer.nano.workshop.renderer.events import EventKind
from analyzer.nano.workshop.scenes import demo_scene
from analyzer.questions.question import Question
from bench.token_replay import STILLS, TokenReplayWatcher, empty_window

WINDOW = timedelta(seconds=STILLS)
PLAN = MemoryPlan(horizon=timedelta(minutes=5), focus_horizon=timedelta(minutes=2))
ASKS = {
    "anything": ANOMALY_ASKS[0],
    "fire": KIND_ASKS[EventKind.FIRE][0],
    "bag": KIND_ASKS[EventKind.ABANDONED][0],
}
QUESTIONS = [
    Question(name=name, ask=ask, cameras=frozenset(), every=WINDOW, look_back=None)
    for name, ask in ASKS.items()
]
BURNING = 60.0
"""A second of the demo's scene in which there is a fire."""


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stills", type=int, default=100_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runner = load_model("nano", "cpu")
    still = demo_scene(90, anomaly=True).jpeg(BURNING, 128, 85)
    watching = TokenReplayWatcher(
        runner,
        QUESTIONS,
        PLAN,
        camera_budget(PLAN, *runner.shape_only_chunk(16, PLAN.epoch), WINDOW),
    )
    watching.tokens = [runner.encode([WindowRun([[still] * STILLS])])[0][0].tokens_GVE]
    sizes, lengths, origins = list[int](), list[int](), set[object]()
    signs: dict[str, list[bool]] = {name: [] for name in ASKS}
    windows = options.stills // STILLS
    for nth in track(range(windows), "windows", console=Console(stderr=True)):
        for finding in watching.step(empty_window(nth)):
            signs[finding.question].append(finding.margin > 0)
        memory = watching.memory_of("dock")
        sizes.append(resident())
        lengths.append(sum(map(len, memory.context(UNLIMITED))))
        origins.add(memory.origin)
    tenth, full = windows // 10, int(PLAN.horizon / WINDOW) + 1
    epochs = 2 * PLAN.epoch_step // WINDOW  # timestamps have had all their digits by then
    begin = min(epochs, windows - 2 * tenth)
    early, last = fmean(sizes[begin : begin + tenth]), fmean(sizes[-tenth:])
    changed = sum(
        before is not after
        for answers in signs.values()
        for before, after in zip(answers[full:], answers[full + 1 :], strict=False)
    )
    print(
        f"stills={windows * STILLS} resident_growth={last / early - 1:+.4%} "
        f"longest_memory={max(lengths)} longest_in_two_epochs={max(lengths[:epochs])} "
        f"epochs={len(origins)} answers={sum(map(len, signs.values()))} signs_changed={changed}"
    )


if __name__ == "__main__":
    main()
