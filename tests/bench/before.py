"""The memory as it was: the baseline of what `memory.py` prints.

New chunks are read behind all that waits in full, bytes are summed again for every chunk, keys
are turned by angles of their own for every chunk, each question takes a second look of its own,
and a rehearsal reads one window at a time and asks what mattered at each.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta

import torch
from bench.replayed import Replayed

from analyzer.answers import Answers
from analyzer.batches import Failure
from analyzer.calibration import score
from analyzer.memory import FOREVER, Chunk, Memory
from analyzer.second_look import Doubt
from analyzer.videoxl2.kv import KVCache, KVChunk, angles, rotate
from analyzer.videoxl2.speaker import Speaker
from storage.records import Window


class MemoryBefore(Memory):
    def behind(self) -> list[KVChunk]:
        return self.view(FOREVER, range(len(self.chunks)))

    def view(self, reach: timedelta, focus: Collection[int] = ()) -> list[KVChunk]:
        recent = len(self.chunks) - self.plan.recent
        return [
            self.full(chunk) if nth >= recent or nth in focus else chunk.pooled
            for nth, chunk in enumerate(self.chunks)
            if nth >= self._first(reach)
        ]

    def _first(self, reach: timedelta) -> int:
        now = self.chunks[-1].end
        return next(nth for nth, chunk in enumerate(self.chunks) if now - chunk.end < reach)

    def _demoted(self, chunks: list[Chunk]) -> list[Chunk]:
        older = max(0, len(chunks) - self.plan.recent)
        held = [self._offloaded(chunk) for chunk in chunks[:older]]
        now, room = chunks[-1].end, self.budget.focus if self.budget else None
        for nth in sorted(range(older), key=lambda nth: self._worth(held[nth], now)):
            late = self._worth(held[nth], now) < -1
            if late or (room is not None and _bytes(held) > room):
                held[nth] = replace(held[nth], dense=None)
        return held + chunks[older:]


class AnswersBefore(Answers):
    def _look_again(self, doubts: Sequence[Doubt]) -> list[float | None]:
        return [self._look(doubt) for doubt in doubts]

    def _look(self, doubt: Doubt) -> float:
        speaker, memory = self.batches.speaker, doubt.memory
        held = list[KVChunk]()
        for chunk in memory.recent(doubt.reach, memory.plan.recent):
            held += speaker.read([(chunk.tokens_GVE, memory.seconds(chunk.times), held)])
        return score(speaker.margins([doubt.ask], held)[0])


class CacheBefore(KVCache):
    def append(self, chunk: KVChunk) -> None:
        self.reserve(len(chunk))
        place = slice(self.length, self.length + len(chunk))
        positions = torch.arange(place.start, place.stop)
        turned = rotate(
            chunk.keys_NKTD, *angles(positions, self._table.inv_freq_F, chunk.keys_NKTD)
        )
        self._keys_NKLD[:, :, place] = turned
        self._values_NKLD[:, :, place] = chunk.values_NKTD
        self._chunks.append(chunk.anchors_T)
        self._stands_for.append(chunk.stands_for)
        self.length = place.stop


class SpeakerBefore(Speaker):
    """Turns the keys of each chunk by angles of its own, and copies them to their place."""

    def _cache(self, behind: Sequence[KVChunk]) -> KVCache:
        chunks = (self.prefix, *behind)
        empty_NK0D = self.prefix.keys_NKTD[:, :, :0]
        cache = CacheBefore(empty_NK0D, self.model.language._table(), self.corrected)
        cache.reserve(sum(map(len, chunks)))
        for chunk in chunks:
            cache.append(chunk)
        return cache


class Before(Replayed):
    """A watcher as it was; its speaker is to be a `SpeakerBefore`."""

    def memory_of(self, camera: str) -> Memory:
        if camera not in self._memories:
            self._memories[camera] = MemoryBefore(camera, self.plan, self.budget)
        return self._memories[camera]

    def rehearse(self, windows: Sequence[Window]) -> list[Failure | None]:
        for window in windows:
            super().rehearse([window])
            self.answers.weigh([self._end_of(window)])
        return [None] * len(windows)


def before(speaker: Speaker) -> SpeakerBefore:
    """Return a speaker with the same weights that lays as it was."""
    return SpeakerBefore(speaker.model, speaker.tokenizer, speaker.name, speaker.corrected)


def watcher_before(watching: Replayed) -> Before:
    """Return a watcher as it was, with the settings and the visual tokens of another."""
    speaker, questions = before(watching.speaker), watching.answers.agenda.questions
    found = Before(speaker, questions, watching.plan, watching.budget)
    found.answers = AnswersBefore(found.batches, questions)
    found.tokens = watching.tokens
    return found


def _bytes(chunks: Sequence[Chunk]) -> int:
    return sum(chunk.dense.nbytes for chunk in chunks if chunk.dense is not None)
