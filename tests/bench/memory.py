"""What the memory costs: appending, asking, against the reference's way, and in bytes.

nano's weights; processor seconds on one thread, medians. The last line sums up:

- append_growth, question_growth: the cost of a window between stills 9,000 and 10,000 over that
  between 500 and 1,500 (vision left out, it knows no past).
- packed_speedup: eight questions asked apart over the same in one pass.
- vs_reference: one question about 512 stills as the reference asks it (it sees and reads
  everything again) over the same question to a memory that holds them.
- bytes_error: the ledger less the bytes of the tensors held.
- laying_64s, laying_10m, laying_1h: the share of the policy and of laying caches in a step of
  eight cameras with one question, its vision included; `..._blind` without vision.
- step_10m, questions_8, questions_32, rehearsal_blind, rehearsal: the earlier way
  (`baseline_runner.py`) over the present one, in one run: a step of eight cameras at ten minutes,
  a window at 64 s in which the yes of each of many questions begins (both without vision), a
  rehearsal of eight cameras at ten minutes without and with vision.
- worst_step: the longest step over the median one, eight cameras over two epochs of 640 s at a
  horizon of 320 s, vision left out.

    python tests/bench/memory.py [--only NAME ...] [--json]
"""

import argparse
import json
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median

from torch import Tensor

from kit.model.memory_bytes import tier_bytes

# Before this folder, in which a file would stand for a package.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from rich.console import Console
from rich.progress import track

from analyzer.kv.budget import MemoryPlan, camera_budget
from analyzer.kv.cache import KVChunk
from analyzer.kv.forward import ForwardContext, StreamSlice, attention_block
from analyzer.kv.int8 import Int8Chunk
from analyzer.kv.memory import UNLIMITED, Memory
from analyzer.models.loading import load_model
from analyzer.models.messages import WindowRun
from analyzer.models.runner import ModelRunner
from analyzer.models.videoxl2 import prompt
from analyzer.nano.workshop.lessons.lessons import ANOMALY_ASKS, KIND_ASKS
from analyzer.nano.workshop.scenes import random_scene
from analyzer.questions.answers import QuestionAnswerer
from analyzer.questions.question import Question
from bench import steps
from bench.steps import seconds
from bench.token_replay import STILLS, TokenReplayWatcher, empty_window
from kit.model.reference import block_of, reference_mask
from storage.records.records import Window

WINDOW = timedelta(seconds=STILLS)
PLAN = MemoryPlan(horizon=timedelta(minutes=15), focus_horizon=timedelta(minutes=5))
ASKS = [ANOMALY_ASKS[0], *(phrasings[0] for phrasings in KIND_ASKS.values())][:8]
QUESTIONS = [
    Question(name=f"q{n}", ask=ask, cameras=frozenset(), every=WINDOW, look_back=None)
    for n, ask in enumerate(ASKS)
]


def jpegs(stills: int) -> list[bytes]:
    scene = random_scene(1, stills, rate=0.5)
    return [scene.jpeg(float(second), 128, 85) for second in range(stills)]


def watcher(runner: ModelRunner, seen: list[bytes], plan: MemoryPlan = PLAN) -> TokenReplayWatcher:
    most = camera_budget(plan, *runner.shape_only_chunk(STILLS, plan.epoch), WINDOW)
    replayed = TokenReplayWatcher(runner, QUESTIONS, plan, most)
    replayed.tokens = tokens_of(runner, seen)
    return replayed


def tokens_of(runner: ModelRunner, seen: list[bytes]) -> list[torch.Tensor]:
    windows = [seen[at : at + STILLS] for at in range(0, len(seen), STILLS)]
    return [
        each.tokens_GVE for window in windows for (each,) in runner.encode([WindowRun([window])])
    ]


def remember(watching: TokenReplayWatcher, nth: int) -> tuple[Window, Memory]:
    """Remember a window without asking anything; return its end."""
    list(watching._rounds([empty_window(nth)]))
    return watching._with_memory(empty_window(nth))


def growth(runner: ModelRunner, seen: list[bytes]) -> dict[str, float]:
    """Return by how much appending and asking grow, and by how many bytes the ledger is wrong."""
    watching, appends, asks = watcher(runner, seen[:128]), list[float](), list[float]()
    for nth in track(range(10_000 // STILLS), "10,000 stills", console=Console(stderr=True)):
        appends.append(seconds(partial(remember, watching, nth)))
        end = watching._with_memory(empty_window(nth))
        asks.append(seconds(partial(watching.answerer.answer_due, [end])))
    late, early = slice(9_000 // STILLS, None), slice(500 // STILLS, 1_500 // STILLS)
    return {
        "append_growth": median(appends[late]) / median(appends[early]),
        "question_growth": median(asks[late]) / median(asks[early]),
        "bytes_error": bytes_error(watching.memory_of("dock")),
    }


def bytes_error(memory: Memory) -> int:
    held = 0
    for chunk in memory.chunks:
        for form in (chunk.pooled, chunk.dense):
            if isinstance(form, KVChunk | Int8Chunk):
                fields = (getattr(form, name) for name in form.__slots__)
                held += sum(field.nbytes for field in fields if isinstance(field, torch.Tensor))
        held += chunk.tokens_GVE.nbytes
    return tier_bytes(memory).total - held


def packed_speedup(runner: ModelRunner, seen: list[bytes]) -> float:
    watching = watcher(runner, seen)
    for nth in range(len(seen) // STILLS):
        remember(watching, nth)
    view = watching.memory_of("dock").context(UNLIMITED)
    turns = [
        (
            seconds(lambda: [runner.margins([ask], view) for ask in ASKS]),
            seconds(lambda: runner.margins(ASKS, view)),
        )
        for _ in range(15)
    ]
    return median(apart for apart, _ in turns) / median(packed for _, packed in turns)


def vs_reference(runner: ModelRunner, seen: list[bytes]) -> float:
    watching = watcher(runner, seen)
    for nth in range(len(seen) // STILLS):
        end = remember(watching, nth)
    ours = list[float]()
    for _ in range(9):
        watching.answerer = QuestionAnswerer(watching.batched_runner, QUESTIONS[:1])
        ours.append(seconds(lambda: watching.answerer.answer_due([end])))
    theirs = median(seconds(lambda: the_references(runner, seen)) for _ in range(3))
    return theirs / median(ours)


@torch.inference_mode()
def the_references(speaker: ModelRunner, seen: list[bytes]) -> float:
    """See all stills, read everything with the question under the mask, and answer."""
    tokens_GVE = speaker.encode([WindowRun([seen])])[0][0].tokens_GVE
    video_TE, video_T = speaker.interleave(tokens_GVE, range(0, len(seen), 4))
    before = speaker.token_ids(prompt.PREFIX)
    after = speaker.token_ids(prompt.question_text(ASKS[0]))
    embed = speaker.model.language.embed
    x_TE = torch.cat([embed(torch.tensor(before)), video_TE, embed(torch.tensor(after))])
    text = [torch.ones(len(ids), dtype=torch.bool) for ids in (before, after)]
    anchors_T = torch.cat([text[0], video_T, text[1]])
    block_T = torch.zeros(len(anchors_T), dtype=torch.long)
    block_T[len(before) : -len(after)] = block_of(video_T, 4)
    mask = reference_mask(anchors_T, block_T, speaker.model.config.previous)
    look = attention_block(x_TE, slice(None), (), mask)
    lane = StreamSlice(0, len(x_TE), None, [look])
    hidden = speaker.model.language.hidden_states(
        x_TE[None], ForwardContext(torch.arange(len(x_TE)), [lane])
    )
    logits = speaker.model.language.logits(hidden[0, -1])
    return float(logits[speaker.yes_id] - logits[speaker.no_id])


def questions_speedup(runner: ModelRunner, tokens: list[Tensor], count: int) -> dict[str, float]:
    return {f"questions_{count}": steps.questions_speedup(runner, tokens, count)}


def figures(runner: ModelRunner) -> dict[str, Callable[[], dict[str, float]]]:
    """Return what is measured, by name."""
    seen = jpegs(512)
    tokens = tokens_of(runner, seen[:256])

    def rehearsal() -> dict[str, float]:
        blind, whole = steps.rehearsal_speedup(runner, tokens, seen)
        return {"rehearsal_blind": blind, "rehearsal": whole}

    def laying(name: str, horizon: int) -> dict[str, float]:
        blind, whole = steps.laying_share(runner, tokens, seen, horizon)
        return {f"laying_{name}_blind": blind, f"laying_{name}": whole}

    return {
        "growth": lambda: growth(runner, seen),
        "packed": lambda: {"packed_speedup": packed_speedup(runner, seen)},
        "reference": lambda: {"vs_reference": vs_reference(runner, seen)},
        **{
            f"laying_{name}": partial(laying, name, horizon)
            for name, horizon in steps.HORIZONS.items()
        },
        "step": lambda: {"step_10m": steps.step_speedup(runner, tokens)},
        **{f"questions_{n}": partial(questions_speedup, runner, tokens, n) for n in (8, 32)},
        "rehearsal": rehearsal,
        "worst": lambda: {"worst_step": steps.worst_step(runner, tokens)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="names of figures")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = figures(load_model("nano", "cpu"))
    measured = dict[str, float]()
    for name in options.only or known:
        measured |= {key: round(figure, 3) for key, figure in known[name]().items()}
    if options.json:
        print(json.dumps(measured))
    else:
        print(" ".join(f"{name}={value}" for name, value in measured.items()))


if __name__ == "__main__":
    main()
