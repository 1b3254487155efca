"""What people are told when: grouping, repetition, and limits, as plain values and pure steps.

Words and defaults are those of Alertmanager (its documentation, "Configuration", `route`, and
`notify.DedupStage`): a new group waits `group_wait` for others to join it, one that was told is
looked at every `group_interval`, and what goes on firing is told again after `repeat_interval`.
A message tells the whole group: all that fires, and what was resolved since. In one thing this
differs: what opened and ended before its group was first told is told all the same, unless it
was muted, for an incident of a camera may be short and still matter.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from alerts.silences import Inhibition, Maintenance, Muted
from storage.due import Arrival, weight_of
from storage.records import Incident, IncidentState
from storage.routing import Bucket, Group, Member, News, Notice, NoticeState

URGENT_INTERVAL = timedelta(minutes=1)
"""The least time between urgent messages: of one group, and beyond the rate of a receiver."""
_TOLD, _MUTED = NoticeState.TOLD, NoticeState.MUTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A number of messages in a time, as a token bucket that holds all of them at once."""

    count: int
    per: timedelta

    def after(self, bucket: Bucket | None, now: datetime) -> Bucket:
        """Return the bucket as it is now; a clock that was set back a little gives nothing.

        One that is further ahead than it takes to fill is full: a clock that was ahead wrote it.
        """
        if bucket is None or bucket.at - now > self.per:
            return Bucket(tokens=float(self.count), at=now)
        since = max(now - bucket.at, timedelta())
        return replace(bucket, tokens=min(self.count, bucket.tokens + since / self._each), at=now)

    def due(self, bucket: Bucket) -> datetime:
        """Return when there is a token to take."""
        return bucket.at + max(0.0, 1.0 - bucket.tokens) * self._each

    def borrow(self, bucket: Bucket, now: datetime) -> Bucket:
        """Return the bucket after a critical message took a token that was not there.

        It owes as many as it holds, at the most.
        """
        return replace(bucket, tokens=max(bucket.tokens - 1.0, -self.count), borrowed_at=now)

    @property
    def _each(self) -> timedelta:
        return self.per / self.count


def borrows_at(bucket: Bucket, now: datetime) -> datetime:
    """Return when a critical message may borrow a token: a minute after the last one did."""
    if bucket.borrowed_at is None or bucket.borrowed_at > now:
        return now
    return bucket.borrowed_at + URGENT_INTERVAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How a receiver is told; `rate_limit` None is no limit.

    A new group waits `group_wait` after its first incident, or `urgent_wait` after its first one
    of severity high or critical. Where more than `digest_after` groups are due at once the
    receiver gets a digest of them.
    """

    group_by: tuple[str, ...] = ("camera", "rule")
    group_wait: timedelta = timedelta(seconds=30)
    urgent_wait: timedelta = timedelta(seconds=2)
    group_interval: timedelta = timedelta(minutes=5)
    repeat_interval: timedelta = timedelta(hours=4)
    rate_limit: Rate | None = Rate(count=60, per=timedelta(hours=1))
    digest_after: int = 20

    @property
    def longest_wait(self) -> timedelta:
        """Return the longest time that a group waits to be looked at again."""
        each = self.rate_limit.per / self.rate_limit.count if self.rate_limit else timedelta()
        return max(self.group_wait, self.group_interval, each, timedelta(minutes=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How all are told; `health` are the rules about the watching itself.

    `pagers` are the receivers to which each incident is an alert of its own, as to PagerDuty.
    """

    default: Route = Route()
    receivers: Mapping[str, Route] = field(default_factory=dict)
    inhibit: tuple[Inhibition, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    health: frozenset[str] = frozenset()
    pagers: frozenset[str] = frozenset()

    def route(self, receiver: str) -> Route:
        """Return how a receiver is told."""
        return self.receivers.get(receiver, self.default)

    @property
    def longest_wait(self) -> timedelta:
        """Return the longest time that any group waits to be looked at again."""
        return max(each.longest_wait for each in (self.default, *self.receivers.values()))

    def groups_of(self, incident: Incident, receivers: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return for each receiver the labels of the group that an incident belongs to."""
        return {
            receiver: {label: getattr(incident, label) for label in self.route(receiver).group_by}
            for receiver in receivers
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a look at a group comes to: the message, the news first; what is marked; when next.

    No message where `message` is empty.
    """

    message: tuple[Member, ...]
    marks: tuple[Notice, ...]
    due_at: datetime | None


def news_of(before: Incident | None, after: Incident) -> News | None:
    """Return what people hear of a change; None where it is nothing to them."""
    if before is not None and before.state is after.state:
        return None
    return {
        IncidentState.RESOLVED: News.RESOLVED,
        IncidentState.OPEN: News.OPENED,
        IncidentState.ACKNOWLEDGED: News.ACKNOWLEDGED,
    }.get(after.state)


def first_due(arrival: Arrival, route: Route, now: datetime) -> datetime | None:
    """Return when a group with something new is looked at.

    A new group waits for others, but what opened long ago has waited long enough. A group that
    waits or was told goes on as it was, unless an incident of severity high or critical opens in
    it: that is sent `urgent_wait` later, yet no sooner than URGENT_INTERVAL after the group's
    last message; a message of the future counts for nothing.
    """
    group = arrival.group
    found = [] if group.due_at is None else [group.due_at]
    if group.due_at is None and arrival.opened_at is not None:
        found.append(_waited(arrival.opened_at, route.group_wait, now))
    if arrival.urgent_at is not None:
        urgent = _waited(arrival.urgent_at, route.urgent_wait, now)
        told_at = group.told_at if group.told_at and group.told_at <= now else None
        found.append(max(urgent, told_at + URGENT_INTERVAL) if told_at else urgent)
    return min(found, default=None)


def plan(
    group: Group,
    members: Sequence[Member],
    muted: Mapping[UUID, Muted],
    route: Route,
    now: datetime,
) -> Plan:
    """Decide what a receiver is told of a group that is due."""
    firing = [each for each in members if fires(each) and each.incident.id not in muted]
    ended = [each for each in members if _tells_its_end(each, muted)]
    news = [each for each in (*firing, *ended) if is_new(each)]
    message = (*news, *_known(firing, ended)) if news or _repeats(group, firing, route, now) else ()
    told = {each.incident.id for each in message}
    marks = [mark for each in members for mark in _mark(each, told, muted)]
    return Plan(message=message, marks=tuple(marks), due_at=_next(members, muted, route, now))


def left_over(members: Iterable[Member], marks: Iterable[Notice]) -> int:
    """Return the weight of the worst incident that still waits or is muted after a look."""
    marked = {notice.incident_id: notice for notice in marks}
    held = [
        weight_of(each.incident.severity)
        for each in members
        if _is_held(marked.get(each.incident.id, each.notice))
    ]
    return max(held, default=0)


def _is_held(notice: Notice) -> bool:
    return notice.is_current and notice.state in (NoticeState.WAITING, _MUTED)


def _waited(opened_at: datetime, wait: timedelta, now: datetime) -> datetime:
    return min(max(now, opened_at + wait), now + wait)


def fires(member: Member) -> bool:
    """Return whether an incident goes on."""
    return member.notice.kind is not News.RESOLVED


def is_new(member: Member) -> bool:
    """Return whether a member's newest notice was not told yet."""
    return member.notice.state is not _TOLD


def _is_lost(member: Member) -> bool:
    """Tell whether an incident was over before anybody might have been told of it."""
    return not fires(member) and member.was_muted and not member.firing_told


def _tells_its_end(member: Member, muted: Mapping[UUID, Muted]) -> bool:
    """Tell whether a message holds an end: one that is news, or that did not arrive yet."""
    owed = is_new(member) and not _is_lost(member)
    return (
        not fires(member)
        and member.incident.id not in muted
        and (owed or (member.on_its_way and not is_new(member)))
    )


def _known(firing: Sequence[Member], ended: Sequence[Member]) -> list[Member]:
    return [each for each in (*firing, *ended) if not is_new(each)]


def _repeats(group: Group, firing: Sequence[Member], route: Route, now: datetime) -> bool:
    """Tell whether what fires is told again: not what somebody has taken on."""
    is_open = any(each.incident.state is IncidentState.OPEN for each in firing)
    if not is_open or group.told_at is None:
        return False
    is_ahead = group.told_at > now  # our clock was set back since
    return is_ahead or now - group.told_at >= route.repeat_interval


def _mark(member: Member, told: set[UUID], muted: Mapping[UUID, Muted]) -> Iterable[Notice]:
    """Yield the notice of a member as it stands now, where that has changed."""
    notice, why = member.notice, muted.get(member.incident.id)
    if not is_new(member):
        if not fires(member) and not member.on_its_way:
            yield replace(notice, is_current=False)
    elif member.incident.id in told:
        yield replace(notice, state=_TOLD, why=None)
    elif _is_lost(member) or (why and not fires(member) and not member.firing_told):
        because = why.why if why else "over before it was no longer muted"
        yield replace(notice, state=_MUTED, why=because, is_current=False)
    elif why and (notice.state, notice.why) != (_MUTED, why.why):
        yield replace(notice, state=_MUTED, why=why.why)


def _next(
    members: Sequence[Member], muted: Mapping[UUID, Muted], route: Route, now: datetime
) -> datetime | None:
    """Return when a group is looked at again; None where all of it is over and told."""
    held = [
        each
        for each in members
        if each.incident.id in muted and is_new(each) and (fires(each) or each.firing_told)
    ]
    if not held and not any(map(fires, members)):
        return None
    ends = [muted[each.incident.id].until for each in held]
    return min([now + route.group_interval, *(at for at in ends if at is not None)])
