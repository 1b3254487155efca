"""The second look at a new yes: score the question again on the recent windows alone, in full.

The windows depend on memory and look-back but not on the question, so they are prefilled once for
all questions of a camera, and for all cameras of a step together.
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
    """A question about a memory with a yes to confirm."""

    memory: Memory
    look_back: timedelta
    ask: str


@dataclass(frozen=True, slots=True, eq=False)
class _RecentWindows:
    """Windows of a memory that are read again, and the numbers of the looks that need them.

    `parts` are prefilled one after another.
    """

    memory: Memory
    parts: Sequence[Sequence[MemoryChunk]]
    question_numbers: list[int]


def second_look_scores(
    batched_runner: BatchedRunner, looks: Sequence[SecondLook]
) -> list[float | None]:
    """Return the score of each look by the recent windows alone; None if it has none."""
    scores: list[float | None] = [None] * len(looks)
    recent = _recent_windows(looks, batched_runner.runner.model.config.previous)
    contexts = _prefill(batched_runner, recent)
    prefilled = [(run, contexts[nth]) for nth, run in enumerate(recent) if nth in contexts]
    answers = batched_runner.score(
        [
            ScoreInput([looks[nth].ask for nth in run.question_numbers], context)
            for run, context in prefilled
        ]
    )
    for (run, _), one in zip(prefilled, answers, strict=True):
        if isinstance(one, Exception):
            continue
        for nth, margin in zip(run.question_numbers, one.margins, strict=True):
            scores[nth] = probability_of(margin) if isfinite(margin) else None
    return scores


def _recent_windows(looks: Sequence[SecondLook], previous: int) -> list[_RecentWindows]:
    """Return the windows to read, once per memory and number of windows."""
    recent = dict[tuple[str, int], _RecentWindows]()
    for nth, look in enumerate(looks):
        chunks = look.memory.recent_within(look.look_back, MAX_WINDOWS_PER_STEP)
        key = look.memory.camera, len(chunks)
        if key not in recent:
            recent[key] = _RecentWindows(look.memory, _prefill_parts(chunks, previous), [])
        recent[key].question_numbers.append(nth)
    return list(recent.values())


def _prefill_parts(chunks: Sequence[MemoryChunk], previous: int) -> list[Sequence[MemoryChunk]]:
    """Return the windows of each pass: up to `previous` + 1 see all before them in one pass."""
    return [chunks] if len(chunks) <= previous + 1 else [[chunk] for chunk in chunks]


def _prefill(
    batched_runner: BatchedRunner, recent: Sequence[_RecentWindows]
) -> dict[int, list[AnyChunk]]:
    """Return the context of each recent run by its number; leave out a run that fails."""
    contexts = {nth: list[AnyChunk]() for nth in range(len(recent))}
    for nth_part in range(max((len(run.parts) for run in recent), default=0)):
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
