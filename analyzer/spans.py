"""When something was to be seen: the windows whose answer is yes, sharpened at their ends.

A group of stills that is asked about by itself sees too little to be trusted alone, but tells
where in a window a yes begins and ends.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from analyzer.videoxl2.arena import Form
from analyzer.videoxl2.speaker import Speaker


@dataclass(frozen=True, slots=True)
class Place:
    """A group of stills within a window, both counted from 0."""

    window: int
    group: int


def seen_in(
    speaker: Speaker, ask: str, margins: Sequence[float], window: Callable[[int], Form]
) -> Iterator[tuple[Place, Place]]:
    """Yield the first and the last place of each stretch of windows whose answer is yes.

    `margins` are those at the end of each window, oldest first; `window` returns the chunk of
    one, and is called for the ends of stretches alone.
    """
    for first, last in _runs([margin > 0 for margin in margins]):
        began, ended = _edges(speaker, ask, window(first))
        if last != first:
            _, ended = _edges(speaker, ask, window(last))
        yield Place(first, began), Place(last, ended)


def _runs(yes: Sequence[bool]) -> Iterator[tuple[int, int]]:
    first = None
    for n, is_yes in enumerate([*yes, False]):
        if is_yes and first is None:
            first = n
        elif not is_yes and first is not None:
            yield first, n - 1
            first = None


def _edges(speaker: Speaker, ask: str, window: Form) -> tuple[int, int]:
    """Return the first and the last group that says yes by itself, all where none does."""
    groups = window.regrouped(1)
    said = speaker.ask([([ask], [group]) for group in groups])
    yes = [n for n, one in enumerate(said) if one.margins[0] > 0]
    return (yes[0], yes[-1]) if yes else (0, len(groups) - 1)
