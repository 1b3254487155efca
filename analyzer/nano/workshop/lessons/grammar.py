"""A grammar of questions, and which of its phrasings are never trained on.

A template with alternatives, as in "Is (someone|anybody) there?", expands to all of its phrasings.
A tenth of them, chosen by a digest, is never trained on. Known phrasings come first, the canonical
one at their head, and are always trained on.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType

from analyzer.nano.workshop.renderer.events import EventKind

Subject = EventKind | None
"""The subject of a question; None is anything unusual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrasings:
    """Ways to ask one thing: those that are trained on, and those that never are."""

    seen: tuple[str, ...]
    unseen: tuple[str, ...]

    @classmethod
    def of(cls, known: Sequence[str], templates: Sequence[str]) -> "Phrasings":
        """Expand templates; reserve a tenth, at least two, none of them known."""
        every = dict.fromkeys([*known, *(text for each in templates for text in expand(each))])
        added = sorted(set(every) - set(known), key=_digest)
        unseen = tuple(added[: max(2, round(len(every) / 10))])
        return cls(seen=tuple(text for text in every if text not in unseen), unseen=unseen)


def expand(template: str) -> tuple[str, ...]:
    """Return all texts of a template with alternatives."""
    found = re.search(r"\(([^()]*)\)", template)
    if not found:
        return (template,)
    before, after = template[: found.start()], template[found.end() :]
    return tuple(text for one in found[1].split("|") for text in expand(before + one + after))


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def phrasings_of_subjects(
    known: Mapping[Subject, Sequence[str]], templates: Mapping[Subject, Sequence[str]]
) -> dict[Subject, Phrasings]:
    """Return the phrasings of each subject, from known ones and templates."""
    return {each: Phrasings.of(known[each], templates[each]) for each in templates}


def phrasings_of_nouns(
    nouns: Mapping[EventKind, Sequence[str]] | Mapping[Subject, Sequence[str]],
    templates: Sequence[str],
    own: Mapping[Subject, Sequence[str]] = MappingProxyType({}),
) -> dict[Subject, Phrasings]:
    """Put each noun into templates, and add a subject's own; the first of both are known."""
    phrasings = dict[Subject, Phrasings]()
    for subject, words in nouns.items():
        put = [each.replace("{n}", noun) for noun in words for each in templates]
        more = own.get(subject, ())
        known = [expand(each[0])[0] for each in (put, more) if each]
        phrasings[subject] = Phrasings.of(known, [*put, *more])
    return phrasings
