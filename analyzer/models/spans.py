"""Spans of time with a yes: runs of windows, refined to groups of stills at both ends.

The score of a single group is too noisy on its own, but it locates the start and the end within
a window.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from analyzer.kv.arena.arena import AnyChunk
from analyzer.models.messages import ScoreInput
from analyzer.models.runner import ModelRunner


@dataclass(frozen=True, slots=True)
class WindowGroup:
    """A group of stills within a window, both counted from 0."""

    window: int
    group: int


def find_yes_spans(
    runner: ModelRunner, ask: str, margins: Sequence[float], window: Callable[[int], AnyChunk]
) -> Iterator[tuple[WindowGroup, WindowGroup]]:
    """Yield the first and the last group of each run of windows whose answer is yes.

    `margins` are those at the end of each window, oldest first; `window` returns the chunk of a
    window, and is called for the ends of runs alone.
    """
    for first, last in _yes_runs([margin > 0 for margin in margins]):
        first_group, last_group = _yes_group_bounds(runner, ask, window(first))
        if last != first:
            _, last_group = _yes_group_bounds(runner, ask, window(last))
        yield WindowGroup(first, first_group), WindowGroup(last, last_group)


def _yes_runs(yes: Sequence[bool]) -> Iterator[tuple[int, int]]:
    first = None
    for n, is_yes in enumerate([*yes, False]):
        if is_yes and first is None:
            first = n
        elif not is_yes and first is not None:
            yield first, n - 1
            first = None


def _yes_group_bounds(runner: ModelRunner, ask: str, window: AnyChunk) -> tuple[int, int]:
    """Return the first and the last group that alone scores yes, or all if there is none."""
    groups = window.split_groups(1)
    scores = runner.score([ScoreInput([ask], [group]) for group in groups])
    yes = [n for n, score in enumerate(scores) if score.margins[0] > 0]
    return (yes[0], yes[-1]) if yes else (0, len(groups) - 1)
