"""Many groups that are due at once: in which order, and what a digest of them holds.

A digest takes the place of a message for each group. It holds every incident that those messages
would hold, the worst first. A pager, where each incident is an alert of its own, gets the worst
WORST of them and one alert for the rest: those wait, and follow as its tokens come.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from alerts.routing import Plan, fires, is_new
from storage.due import weight_of
from storage.routing import Group, Member, NoticeState

WORST = 10
"""How many incidents of a digest are told in full, and how many a pager hears of at once."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A group that is due, the incidents in it, and what is planned."""

    group: Group
    members: tuple[Member, ...]
    plan: Plan

    @property
    def weight(self) -> int:
        """Return the weight of the worst incident that the message holds, the news if any."""
        return max(map(_weight, self.news), default=0)

    @property
    def news(self) -> tuple[Member, ...]:
        """Return what is new in the message, or all of it where it repeats."""
        return tuple(filter(is_new, self.plan.message)) or self.plan.message


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """The incidents of a digest, the worst first; `left_out` wait and follow later."""

    members: tuple[Member, ...]
    looks: tuple[Look, ...]
    left_out: int = 0


def in_turn(looks: Sequence[Look], served: Mapping[str, datetime]) -> list[Look]:
    """Return looks in order: the worst first, and among equals one of each camera by turns.

    The camera that was served longest ago comes first. No camera's second group comes before
    another's first one of the same severity.
    """
    turns = Counter[tuple[int, str]]()
    found = []
    for look in sorted(looks, key=lambda each: (each.group.due_at or _LONG_AGO, each.group.id)):
        camera = look.group.camera
        turn = turns[look.weight, camera]
        turns[look.weight, camera] += 1
        found.append(((-look.weight, turn, served.get(camera, _LONG_AGO)), look))
    return [look for _, look in sorted(found, key=lambda each: each[0])]


def digest_of(looks: Sequence[Look]) -> Digest:
    """Return the digest of groups that are in turn."""
    members = [member for look in looks for member in look.plan.message]
    return Digest(members=tuple(sorted(members, key=_order)), looks=tuple(looks))


def page_of(looks: Sequence[Look]) -> Digest:
    """Return what a pager hears of groups that are in turn: the worst, one of each by turns."""
    candidates = [
        ((-_weight(member), turn, place), member)
        for place, look in enumerate(looks)
        for turn, member in enumerate(look.news)
    ]
    chosen = [member for _, member in sorted(candidates, key=lambda each: each[0])[:WORST]]
    ids = {member.incident.id for member in chosen}
    left_out = sum(is_new(member) for _, member in candidates) - sum(map(is_new, chosen))
    told = (_only(look, ids) for look in looks)
    return Digest(
        members=tuple(chosen),
        looks=tuple(look for look in told if look.plan.message),
        left_out=left_out,
    )


def _only(look: Look, ids: set[UUID]) -> Look:
    """Return a look whose message holds these incidents alone; it is due still for others."""
    message = tuple(each for each in look.plan.message if each.incident.id in ids)
    waits = {each.incident.id for each in look.news if is_new(each)} - ids
    marks = tuple(
        mark
        for mark in look.plan.marks
        if not (mark.incident_id in waits and mark.state is NoticeState.TOLD)
    )
    due_at = look.group.due_at if waits else look.plan.due_at
    return replace(look, plan=Plan(message=message, marks=marks, due_at=due_at))


def _order(member: Member) -> tuple[int, bool, bool]:
    return -_weight(member), not is_new(member), not fires(member)


def _weight(member: Member) -> int:
    return weight_of(member.incident.severity)
