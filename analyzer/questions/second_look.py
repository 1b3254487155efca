"""The second look, where a yes begins: the recent windows read again in full, the past left out.

What is read depends on the memory and the reach and not on the question: it is read once for
all questions of a camera, for all cameras of a step together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import isfinite

import torch

from analyzer.batching import BatchedRunner
from analyzer.kv.arena.arena import AnyChunk
from analyzer.kv.budget import MAX_WINDOWS_PER_STEP
from analyzer.kv.memory import Memory, MemoryChunk
from analyzer.models.messages import ScoreInput, WindowToRemember
from analyzer.questions.calibration import probability_of


@dataclass(frozen=True, slots=True, eq=False)
class SecondLook:
    """A question about a memory whose answer is to be confirmed."""

    memory: Memory
    look_back: timedelta
    ask: str


@dataclass(frozen=True, slots=True, eq=False)
class _RecentWindows:
    """Windows of a memory that are read together, and the numbers of the doubts about them.

    `parts` are read one behind another.
    """

    memory: Memory
    parts: Sequence[Sequence[MemoryChunk]]
    question_numbers: list[int]


def second_look_scores(
    batched_runner: BatchedRunner, looks: Sequence[SecondLook]
) -> list[float | None]:
    """Return the score of each question by the recent windows alone; None where there is none."""
    scores: list[float | None] = [None] * len(looks)
    recent = _recent_windows(looks, batched_runner.runner.model.config.previous)
    contexts = _prefill(batched_runner, recent)
    prefilled = [(scene, contexts[nth]) for nth, scene in enumerate(recent) if nth in contexts]
    answers = batched_runner.score(
        [
            ScoreInput([looks[nth].ask for nth in scene.question_numbers], behind)
            for scene, behind in prefilled
        ]
    )
    for (scene, _), one in zip(prefilled, answers, strict=True):
        if isinstance(one, Exception):
            continue
        for nth, margin in zip(scene.question_numbers, one.margins, strict=True):
            scores[nth] = probability_of(margin) if isfinite(margin) else None
    return scores


def _recent_windows(looks: Sequence[SecondLook], previous: int) -> list[_RecentWindows]:
    """Return what has to be read: reaches with the same windows are one."""
    recent = dict[tuple[str, int], _RecentWindows]()
    for nth, doubt in enumerate(looks):
        chunks = doubt.memory.recent_within(doubt.look_back, MAX_WINDOWS_PER_STEP)
        key = doubt.memory.camera, len(chunks)
        if key not in recent:
            recent[key] = _RecentWindows(doubt.memory, _prefill_parts(chunks, previous), [])
        recent[key].question_numbers.append(nth)
    return list(recent.values())


def _prefill_parts(chunks: Sequence[MemoryChunk], previous: int) -> list[Sequence[MemoryChunk]]:
    """Return what is read at once: up to `previous` + 1 windows see all before them anyway."""
    return [chunks] if len(chunks) <= previous + 1 else [[chunk] for chunk in chunks]


def _prefill(
    batched_runner: BatchedRunner, recent: Sequence[_RecentWindows]
) -> dict[int, list[AnyChunk]]:
    """Read the windows of all scenes again; leave out a scene that cannot be read."""
    contexts = {nth: list[AnyChunk]() for nth in range(len(recent))}
    for nth_part in range(max((len(scene.parts) for scene in recent), default=0)):
        unfinished = [nth for nth in contexts if nth_part < len(recent[nth].parts)]
        parts = [recent[nth].parts[nth_part] for nth in unfinished]
        inputs = [
            _prefill_input(recent[nth].memory, part, contexts[nth])
            for nth, part in zip(unfinished, parts, strict=True)
        ]
        chunks = batched_runner.prefill(inputs, weight=max(map(len, parts)))
        for nth, chunk in zip(unfinished, chunks, strict=True):
            if isinstance(chunk, Exception):
                del contexts[nth]
            else:
                contexts[nth].append(chunk)
    return contexts


def _prefill_input(
    memory: Memory, chunks: Sequence[MemoryChunk], context: Sequence[AnyChunk]
) -> WindowToRemember:
    tokens_GVE = torch.cat([chunk.tokens_GVE for chunk in chunks])
    times = [at for chunk in chunks for at in chunk.times]
    return WindowToRemember(tokens_GVE, memory.to_timestamps(times), list(context))
