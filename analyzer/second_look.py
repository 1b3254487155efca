"""The second look, where a yes begins: the recent windows read again in full, the past left out.

What is read depends on the memory and the reach and not on the question: it is read once for
all questions of a camera, for all cameras of a step together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import isfinite

import torch

from analyzer.batches import Batches
from analyzer.calibration import score
from analyzer.memory import Chunk, Memory
from analyzer.plan import AT_ONCE
from analyzer.videoxl2.arena import Form
from analyzer.videoxl2.speaker import WindowToRead


@dataclass(frozen=True, slots=True, eq=False)
class Doubt:
    """A question about a memory whose answer is to be confirmed."""

    memory: Memory
    reach: timedelta
    ask: str


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """Windows of a memory that are read together, and the numbers of the doubts about them.

    `parts` are read one behind another.
    """

    memory: Memory
    parts: Sequence[Sequence[Chunk]]
    doubts: list[int]


def look_again(batches: Batches, doubts: Sequence[Doubt]) -> list[float | None]:
    """Return the score of each question by the recent windows alone; None where there is none."""
    scores: list[float | None] = [None] * len(doubts)
    scenes = _scenes(doubts, batches.speaker.model.config.previous)
    held = _read(batches, scenes)
    whole = [(scene, held[nth]) for nth, scene in enumerate(scenes) if nth in held]
    said = batches.ask(
        [([doubts[nth].ask for nth in scene.doubts], behind) for scene, behind in whole]
    )
    for (scene, _), one in zip(whole, said, strict=True):
        if isinstance(one, Exception):
            continue
        for nth, margin in zip(scene.doubts, one.margins, strict=True):
            scores[nth] = score(margin) if isfinite(margin) else None
    return scores


def _scenes(doubts: Sequence[Doubt], previous: int) -> list[_Scene]:
    """Return what has to be read: reaches with the same windows are one."""
    scenes = dict[tuple[str, int], _Scene]()
    for nth, doubt in enumerate(doubts):
        chunks = doubt.memory.recent(doubt.reach, AT_ONCE)
        key = doubt.memory.camera, len(chunks)
        if key not in scenes:
            scenes[key] = _Scene(doubt.memory, _parts(chunks, previous), [])
        scenes[key].doubts.append(nth)
    return list(scenes.values())


def _parts(chunks: Sequence[Chunk], previous: int) -> list[Sequence[Chunk]]:
    """Return what is read at once: up to `previous` + 1 windows see all before them anyway."""
    return [chunks] if len(chunks) <= previous + 1 else [[chunk] for chunk in chunks]


def _read(batches: Batches, scenes: Sequence[_Scene]) -> dict[int, list[Form]]:
    """Read the windows of all scenes again; leave out a scene that cannot be read."""
    held = {nth: list[Form]() for nth in range(len(scenes))}
    for turn in range(max((len(scene.parts) for scene in scenes), default=0)):
        going = [nth for nth in held if turn < len(scenes[nth].parts)]
        parts = [scenes[nth].parts[turn] for nth in going]
        pieces = [
            _piece(scenes[nth].memory, part, held[nth])
            for nth, part in zip(going, parts, strict=True)
        ]
        made = batches.read(pieces, weight=max(map(len, parts)))
        for nth, chunk in zip(going, made, strict=True):
            if isinstance(chunk, Exception):
                del held[nth]
            else:
                held[nth].append(chunk)
    return held


def _piece(memory: Memory, chunks: Sequence[Chunk], held: Sequence[Form]) -> WindowToRead:
    tokens_GVE = torch.cat([chunk.tokens_GVE for chunk in chunks])
    times = [at for chunk in chunks for at in chunk.times]
    return tokens_GVE, memory.seconds(times), list(held)
