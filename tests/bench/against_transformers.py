"""A window and its questions behind 64 s of memory, against transformers with a kept cache.

nano's weights on the CPU, one camera, rendered stills. The other side is what an engineer would
write with transformers alone: Qwen2ForCausalLM under its own attention with the same weights, a
DynamicCache that is kept from window to window, the questions read one by one, and the cache
cropped back after each. Both answer from 64 s.

- Ours is `Watcher.step` as the analyzer calls it: it reads the window behind 64 s, pools it,
  forgets the oldest, asks all questions in one pass, and looks again where a yes begins.
  The second looks are a figure of their own: `same_work` has none, the other side takes none.
- Theirs reads the window behind the 48 s before it, which leaves 64 s: a DynamicCache cannot
  forget its oldest tokens, so it is cropped to those 48 s for the next round. It has a window less
  to read behind.

Both get visual tokens, so vision is left out; with vision, the time of `ModelRunner.encode` in
the same round (decoding included) is added to both. The mask hides nothing from a window of the
first 64 s, so that both must then give the same margins: `margins_apart` is the largest
difference. Rounds alternate; figures are medians of processor time on one
thread, so that other work on the machine counts as little as possible.

    python tests/bench/against_transformers.py [--questions 8] [--rounds 9] [--json]
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from datetime import timedelta
from inspect import signature
from pathlib import Path
from statistics import median

# Before this folder, in which a file would stand for a package.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2ForCausalLM

from analyzer.models.loading import load_model
from analyzer.models.runner import ModelRunner
from analyzer.models.videoxl2 import prompt
from analyzer.nano.workshop.lessons.lessons import ANOMALY_ASKS, KIND_ASKS
from analyzer.nano.workshop.scenes import random_scene
from analyzer.questions.question import Question
from bench.gpu_steps.bench import Bench, keep_stdout_for_figures
from bench.gpu_steps.clocks import Stopwatch
from bench.gpu_steps.footage import Jpeg
from bench.gpu_steps.site import STILLS, Site
from kit.model.videoxl2 import videoxl2_of
from storage.records.records import Finding

MEMORY = 4
"""Windows of 16 stills that are remembered: 64 s."""
HEIGHT = 480
SAME_WORK, SECOND_LOOKS = "same_work", "with_second_looks"
CACHE_ARGUMENT = (
    "cache" if "cache" in signature(Qwen2ForCausalLM.forward).parameters else "past_key_values"
)
"""The argument of what is kept; transformers renamed it."""
ASKS = [ANOMALY_ASKS[0], *(phrasings[0] for phrasings in KIND_ASKS.values())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Milliseconds of a window and its questions, how many times faster ours is, the margins.

    `read_ms` and `ask_ms` are ours, the second looks' among them; `second_looks` counts those of
    all rounds.
    """

    questions: int
    rounds: int
    ours_ms: float
    read_ms: float
    ask_ms: float
    theirs_ms: float
    vision_ms: float
    times_faster: float
    times_faster_with_vision: float
    second_looks: int
    margins_apart: float


class TransformersCamera:
    """Qwen2 in transformers, with the cache of one camera."""

    def __init__(self, runner: ModelRunner, asks: Sequence[str]) -> None:
        decoder = videoxl2_of(runner).language.decoder
        self._speaker = runner
        self._model = Qwen2ForCausalLM(deepcopy(decoder.config))  # ours names its own attention
        self._model.load_state_dict(decoder.state_dict())
        self._model.set_attn_implementation("sdpa")
        self._model.eval()
        self._question_ids = [
            torch.tensor([runner.token_ids(prompt.question_text(ask))]) for ask in asks
        ]
        self.cache = DynamicCache()
        self._read(
            self._model.get_input_embeddings()(torch.tensor([runner.token_ids(prompt.PREFIX)]))
        )

    def remember(self, tokens_GVE: Tensor, seconds: Sequence[float]) -> None:
        """Read a window behind what is kept."""
        self._read(self._speaker.interleave(tokens_GVE, seconds)[0][None])

    def answer(self) -> list[float]:
        """Return the margin of each question; the cache stays as it is."""
        margins, length = list[float](), self.cache.get_seq_length()
        for ids in self._question_ids:
            out = self._model(input_ids=ids, logits_to_keep=1, **{CACHE_ARGUMENT: self.cache})
            logits = out.logits[0, -1]
            margins.append(float(logits[self._speaker.yes_id] - logits[self._speaker.no_id]))
            self.forget_from(length)
        return margins

    def forget_from(self, length: int) -> None:
        """Keep only the first tokens."""
        self.cache.crop(length - self.cache.get_seq_length())  # a negative number is taken off

    def _read(self, x_BTE: Tensor) -> None:
        self._model.model(inputs_embeds=x_BTE, **{CACHE_ARGUMENT: self.cache})


class SideBySide:
    """Both sides on the same stream; ours goes first, and its visual tokens are read by both."""

    def __init__(self, runner: ModelRunner, asks: Sequence[str], is_same_work: bool) -> None:
        self.bench = Bench(
            device=torch.device("cpu"),
            dtype=torch.float32,
            is_tiny=False,
            ends=float("inf"),
            clock=time.process_time,
        )
        self.watch = Stopwatch(self.bench)
        self.theirs = TransformersCamera(runner, asks)
        self.site = Site(runner, questions=questions(asks), jpeg=stills())
        if is_same_work:
            self.site.answer(yes=False)

    def window(self) -> "RoundTimes":
        """Take the next window and its questions on both sides."""
        ((window,),) = self.site.batches()
        found: list[Finding] = []
        self.watch.seconds.clear()
        with self.watch.on(self.site.speaker, "encode", "prefill", "score"):
            ours = self.bench.seconds(lambda: found.extend(self.site.step([window])))
        margins: list[float] = []
        tokens_GVE, seconds = self._last()

        def read_and_answer() -> None:
            self.theirs.remember(tokens_GVE, seconds)
            margins.extend(self.theirs.answer())

        theirs = self.bench.seconds(read_and_answer)
        parts = self.watch.seconds
        return RoundTimes(
            ours=ours - parts["encode"],
            read=parts["prefill"],
            ask=parts["score"],
            theirs=theirs,
            vision=parts["encode"],
            found=found,
            margins=margins,
        )

    def _last(self) -> tuple[Tensor, list[float]]:
        """Return what the last window shows, and the seconds of its groups."""
        memory = self.site.memory()
        chunk = memory.chunks[-1]
        return chunk.tokens_GVE, memory.to_timestamps(chunk.times)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTimes:
    """Seconds of one window and its questions on both sides, vision apart, and the answers."""

    ours: float
    read: float
    ask: float
    theirs: float
    vision: float
    found: Sequence[Finding]
    margins: Sequence[float]

    @property
    def apart(self) -> float:
        """Return the largest difference of margins."""
        pairs = zip(self.found, self.margins, strict=True)
        return max(abs(finding.margin - margin) for finding, margin in pairs)


def questions(asks: Sequence[str]) -> list[Question]:
    window = timedelta(seconds=STILLS)
    return [
        Question(name=f"q{n}", ask=ask, cameras=frozenset(), every=window, look_back=None)
        for n, ask in enumerate(asks)
    ]


def stills() -> Jpeg:
    """Return rendered stills, one a second, as large as a camera's."""
    scene = random_scene(1, 60.0 * STILLS, rate=0.5)
    return lambda number: scene.jpeg(float(number), HEIGHT, 85)


def measure(runner: ModelRunner, asks: Sequence[str], rounds: int, is_same_work: bool) -> Result:
    match = SideBySide(runner, asks, is_same_work)
    lengths, first = [], []
    for _ in range(MEMORY):
        lengths.append(match.theirs.cache.get_seq_length())
        first.append(match.window())
    took = []
    for _ in range(1 + rounds):
        match.theirs.forget_from(lengths[-1])
        took.append(match.window())
    return summarize(first, took[1:], len(asks))


def summarize(first: Sequence[RoundTimes], took: Sequence[RoundTimes], asked: int) -> Result:
    with_vision = [(each.theirs + each.vision) / (each.ours + each.vision) for each in took]
    looks = sum(finding.second_look is not None for each in took for finding in each.found)
    return Result(
        questions=asked,
        rounds=len(took),
        ours_ms=median_ms(each.ours for each in took),
        read_ms=median_ms(each.read for each in took),
        ask_ms=median_ms(each.ask for each in took),
        theirs_ms=median_ms(each.theirs for each in took),
        vision_ms=median_ms(each.vision for each in took),
        times_faster=round(median(each.theirs / each.ours for each in took), 3),
        times_faster_with_vision=round(median(with_vision), 3),
        second_looks=looks,
        margins_apart=round(max(each.apart for each in first), 6),
    )


def median_ms(seconds: Iterable[float]) -> float:
    return round(1e3 * median(seconds), 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=8, choices=range(1, len(ASKS) + 1))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_stdout_for_figures()
    runner, asks = load_model("nano", "cpu"), ASKS[: options.questions]
    with torch.inference_mode():
        results = {
            name: asdict(measure(runner, asks, options.rounds, name == SAME_WORK))
            for name in (SAME_WORK, SECOND_LOOKS)
        }
    if options.json:
        print(json.dumps(results))
        return
    for name, result in results.items():
        print(f"{name}: {' '.join(f'{k}={v}' for k, v in result.items())}")


if __name__ == "__main__":
    main()
