"""Many groups that are due at once: their order, and the digest of them.

A digest replaces a message for each group. It contains every incident of those messages, worst
first. A pager, which gets one alert per incident, gets the worst MAX_IN_FULL and one alert for the
rest: these wait, and follow as tokens accrue.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from alerts.dispatch.grouping import NotificationPlan, is_firing, is_new
from storage.db.rows.due_groups import severity_weight
from storage.records.notifications import GroupedIncident, NotificationGroup, NotificationState

MAX_IN_FULL = 10
"""How many incidents of a digest are described in full, and how many a pager gets at once."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGroup:
    """A due group, its incidents, and the plan for them."""

    group: NotificationGroup
    members: tuple[GroupedIncident, ...]
    plan: NotificationPlan

    @property
    def weight(self) -> int:
        """Return the weight of the worst new incident in the message, or of all if none is new."""
        return max(map(_weight, self.new_members), default=0)

    @property
    def new_members(self) -> tuple[GroupedIncident, ...]:
        """Return the new incidents of the message, or all if it is a repeat."""
        return tuple(filter(is_new, self.plan.incidents)) or self.plan.incidents


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """The incidents of a digest, the worst first; `left_out` wait and follow later."""

    members: tuple[GroupedIncident, ...]
    groups: tuple[PlannedGroup, ...]
    left_out: int = 0


def order_by_priority(
    groups: Sequence[PlannedGroup], last_served: Mapping[str, datetime]
) -> list[PlannedGroup]:
    """Return groups by severity, and within a severity one of each camera by turns.

    The camera that was notified longest ago comes first.
    """
    turns = Counter[tuple[int, str]]()
    ranked = []
    for planned in sorted(groups, key=lambda each: (each.group.due_at or _LONG_AGO, each.group.id)):
        camera = planned.group.camera
        turn = turns[planned.weight, camera]
        turns[planned.weight, camera] += 1
        ranked.append(((-planned.weight, turn, last_served.get(camera, _LONG_AGO)), planned))
    return [planned for _, planned in sorted(ranked, key=lambda each: each[0])]


def build_digest(groups: Sequence[PlannedGroup]) -> Digest:
    """Return the digest of ordered groups."""
    members = [member for planned in groups for member in planned.plan.incidents]
    return Digest(members=tuple(sorted(members, key=_sort_key)), groups=tuple(groups))


def build_pager_digest(groups: Sequence[PlannedGroup]) -> Digest:
    """Return a pager's digest of ordered groups: the worst incidents, one per group by turns."""
    candidates = [
        ((-_weight(member), turn, rank), member)
        for rank, planned in enumerate(groups)
        for turn, member in enumerate(planned.new_members)
    ]
    chosen = [member for _, member in sorted(candidates, key=lambda each: each[0])[:MAX_IN_FULL]]
    ids = {member.incident.id for member in chosen}
    left_out = sum(is_new(member) for _, member in candidates) - sum(map(is_new, chosen))
    restricted = (_restrict(planned, ids) for planned in groups)
    return Digest(
        members=tuple(chosen),
        groups=tuple(planned for planned in restricted if planned.plan.incidents),
        left_out=left_out,
    )


def _restrict(planned: PlannedGroup, ids: set[UUID]) -> PlannedGroup:
    """Return the plan with these incidents alone; the group stays due for the others."""
    incidents = tuple(each for each in planned.plan.incidents if each.incident.id in ids)
    waiting = {each.incident.id for each in planned.new_members if is_new(each)} - ids
    updates = tuple(
        update
        for update in planned.plan.updates
        if not (update.incident_id in waiting and update.state is NotificationState.SENT)
    )
    due_at = planned.group.due_at if waiting else planned.plan.due_at
    return replace(
        planned, plan=NotificationPlan(incidents=incidents, updates=updates, due_at=due_at)
    )


def _sort_key(member: GroupedIncident) -> tuple[int, bool, bool]:
    return -_weight(member), not is_new(member), not is_firing(member)


def _weight(member: GroupedIncident) -> int:
    return severity_weight(member.incident.severity)
