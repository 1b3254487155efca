"""The memory as it was: the baseline of what `memory.py` prints.

New chunks are read behind all that waits in full, bytes are summed again for every chunk, keys
are turned by angles of their own for every chunk, each question takes a second look of its own,
and a rehearsal reads one window at a time and asks what mattered at each.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta

import torch

from analyzer.batching import Failure
from analyzer.kv.arena.arena import AnyChunk
from analyzer.kv.cache import KVCache, KVChunk
from analyzer.kv.memory import UNLIMITED, Memory, MemoryChunk
from analyzer.kv.rotary import rotate
from analyzer.models.messages import WindowToRemember
from analyzer.models.runner import ModelRunner
from analyzer.questions.answers import QuestionAnswerer
from analyzer.questions.calibration import probability_of
from analyzer.questions.second_look import SecondLook
from bench.token_replay import TokenReplayWatcher
from kit.model.videoxl2 import videoxl2_of
from storage.records.records import Window


class BaselineMemory(Memory):
    def prefill_context(self) -> list[AnyChunk]:
        return self.context(UNLIMITED, range(len(self.chunks)))

    def context(self, look_back: timedelta, focus: Collection[int] = ()) -> list[AnyChunk]:
        recent = len(self.chunks) - self.plan.recent
        return [
            self.densest_form(chunk) if nth >= recent or nth in focus else chunk.pooled
            for nth, chunk in enumerate(self.chunks)
            if nth >= self._first(look_back)
        ]

    def _first(self, look_back: timedelta) -> int:
        now = self.chunks[-1].end
        return next(nth for nth, chunk in enumerate(self.chunks) if now - chunk.end < look_back)

    def _demote(self, chunks: list[MemoryChunk]) -> list[MemoryChunk]:
        older = max(0, len(chunks) - self.plan.recent)
        held = [self._offload(chunk) for chunk in chunks[:older]]
        now, room = chunks[-1].end, self.budget.focus if self.budget else None
        for nth in sorted(range(older), key=lambda nth: self._worth(held[nth], now)):
            late = self._worth(held[nth], now) < -1
            if late or (room is not None and _bytes(held) > room):
                held[nth] = replace(held[nth], dense=None)
        return held + chunks[older:]


class BaselineAnswers(QuestionAnswerer):
    def _second_look_scores(self, looks: Sequence[SecondLook]) -> list[float | None]:
        return [self._look(doubt) for doubt in looks]

    def _look(self, doubt: SecondLook) -> float:
        runner, memory = self.batched_runner.runner, doubt.memory
        held = list[AnyChunk]()
        for chunk in memory.recent_within(doubt.look_back, memory.plan.recent):
            held += runner.prefill(
                [WindowToRemember(chunk.tokens_GVE, memory.to_timestamps(chunk.times), held)]
            )
        return probability_of(runner.margins([doubt.ask], held)[0])


class BaselineCache(KVCache):
    def append(self, chunk: KVChunk) -> None:
        self.reserve(len(chunk))
        place = slice(self.length, self.length + len(chunk))
        positions = torch.arange(place.start, place.stop)
        turned = rotate(chunk.keys_NKTD, *self._angle_table.rotary(positions, chunk.keys_NKTD))
        self._keys_NKLD[:, :, place] = turned
        self._values_NKLD[:, :, place] = chunk.values_NKTD
        self._anchor_masks.append(chunk.anchors_T)
        self._token_sizes.append(chunk.token_size)
        self.length = place.stop


class BaselineRunner(ModelRunner):
    """Turns the keys of each chunk by angles of its own, and copies them to their place."""

    def _build_cache(self, context: Sequence[AnyChunk], room: int = 0) -> KVCache:
        chunks = [self.prefix, *(form for form in context if isinstance(form, KVChunk))]
        empty_NK0D = self.prefix.keys_NKTD[:, :, :0]
        cache = BaselineCache(
            empty_NK0D, videoxl2_of(self).language._angle_table(), self.proportional_attention
        )
        cache.reserve(sum(map(len, chunks)) + room)
        for chunk in chunks:
            cache.append(chunk)
        return cache


class BaselineWatcher(TokenReplayWatcher):
    """A watcher as it was; its speaker is to be a `BaselineRunner`."""

    def memory_of(self, camera: str) -> Memory:
        if camera not in self._memories:
            self._memories[camera] = BaselineMemory(camera, self.plan, self.budget)
        return self._memories[camera]

    def restore(self, windows: Sequence[Window]) -> list[Failure | None]:
        for window in windows:
            super().restore([window])
            self.answerer.record_relevance([self._with_memory(window)])
        return [None] * len(windows)


def baseline_runner(runner: ModelRunner) -> BaselineRunner:
    """Return a speaker with the same weights that lays as it was."""
    return BaselineRunner(
        runner.model, runner.tokenizer, runner.name, runner.proportional_attention
    )


def baseline_watcher(watching: TokenReplayWatcher) -> BaselineWatcher:
    """Return a watcher as it was, with the settings and the visual tokens of another."""
    runner, questions = baseline_runner(watching.runner), watching.answerer.schedule.questions
    found = BaselineWatcher(runner, questions, watching.plan, watching.budget)
    found.answerer = BaselineAnswers(found.batched_runner, questions)
    found.tokens = watching.tokens
    return found


def _bytes(chunks: Sequence[MemoryChunk]) -> int:
    return sum(chunk.dense.nbytes for chunk in chunks if chunk.dense is not None)
