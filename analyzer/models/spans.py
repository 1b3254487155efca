"""When something was to be seen: the windows whose answer is yes, sharpened at their ends.

A group of stills that is asked about by itself sees too little to be trusted alone, but tells
where in a window a yes begins and ends.
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
    """Yield the first and the last place of each stretch of windows whose answer is yes.

    `margins` are those at the end of each window, oldest first; `window` returns the chunk of
    one, and is called for the ends of stretches alone.
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
    """Return the first and the last group that says yes by itself, all where none does."""
    groups = window.split_groups(1)
    scores = runner.score([ScoreInput([ask], [group]) for group in groups])
    yes = [n for n, score in enumerate(scores) if score.margins[0] > 0]
    return (yes[0], yes[-1]) if yes else (0, len(groups) - 1)
