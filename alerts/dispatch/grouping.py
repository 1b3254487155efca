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

from alerts.dispatch.muting import Inhibition, Maintenance, MuteReason
from alerts.dispatch.rate_limit import URGENT_INTERVAL, MessageRate
from storage.db.rows.due_groups import ChangedGroup, severity_weight
from storage.db.rows.notifications import (
    ChangeKind,
    GroupedIncident,
    Notification,
    NotificationGroup,
    NotificationState,
)
from storage.records.records import Incident, IncidentState

DEFAULT_RATE_LIMIT = MessageRate(count=60, per=timedelta(hours=1))
_SENT, _MUTED = NotificationState.SENT, NotificationState.MUTED


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePolicy:
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
    rate_limit: MessageRate | None = DEFAULT_RATE_LIMIT
    digest_after: int = 20

    @property
    def longest_wait(self) -> timedelta:
        """Return the longest time that a group waits to be looked at again."""
        interval = self.rate_limit.interval if self.rate_limit else timedelta()
        return max(self.group_wait, self.group_interval, interval, URGENT_INTERVAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationPolicy:
    """How all are told; `health` are the rules about the watching itself.

    `pagers` are the receivers to which each incident is an alert of its own, as to PagerDuty.
    """

    default: RoutePolicy = RoutePolicy()
    receivers: Mapping[str, RoutePolicy] = field(default_factory=dict)
    inhibitions: tuple[Inhibition, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    health_rules: frozenset[str] = frozenset()
    pagers: frozenset[str] = frozenset()

    def policy_for(self, receiver: str) -> RoutePolicy:
        """Return how a receiver is told."""
        return self.receivers.get(receiver, self.default)

    @property
    def longest_wait(self) -> timedelta:
        """Return the longest time that any group waits to be looked at again."""
        return max(each.longest_wait for each in (self.default, *self.receivers.values()))

    def group_labels(
        self, incident: Incident, receivers: Iterable[str]
    ) -> dict[str, dict[str, str]]:
        """Return for each receiver the labels of the group that an incident belongs to."""
        return {
            receiver: {
                label: getattr(incident, label) for label in self.policy_for(receiver).group_by
            }
            for receiver in receivers
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationPlan:
    """What a look at a group comes to: the message, the news first; what is marked; when next.

    No message where `message` is empty.
    """

    incidents: tuple[GroupedIncident, ...]
    updates: tuple[Notification, ...]
    due_at: datetime | None


def first_due(arrival: ChangedGroup, policy: RoutePolicy, now: datetime) -> datetime | None:
    """Return when a group with something new is looked at.

    A new group waits for others, but what opened long ago has waited long enough. A group that
    waits or was told goes on as it was, unless an incident of severity high or critical opens in
    it: that is sent `urgent_wait` later, yet no sooner than URGENT_INTERVAL after the group's
    last message; a message of the future counts for nothing.
    """
    group = arrival.group
    candidates = [] if group.due_at is None else [group.due_at]
    if group.due_at is None and arrival.opened_at is not None:
        candidates.append(_wait_end(arrival.opened_at, policy.group_wait, now))
    if arrival.urgent_at is not None:
        urgent = _wait_end(arrival.urgent_at, policy.urgent_wait, now)
        told_at = group.told_at if group.told_at and group.told_at <= now else None
        candidates.append(max(urgent, told_at + URGENT_INTERVAL) if told_at else urgent)
    return min(candidates, default=None)


def plan_notification(
    group: NotificationGroup,
    members: Sequence[GroupedIncident],
    mute_reasons: Mapping[UUID, MuteReason],
    policy: RoutePolicy,
    now: datetime,
) -> NotificationPlan:
    """Decide what a receiver is told of a group that is due."""
    firing = [each for each in members if is_firing(each) and each.incident.id not in mute_reasons]
    ended = [each for each in members if _is_resolution_due(each, mute_reasons)]
    new = [each for each in (*firing, *ended) if is_new(each)]
    incidents = (
        (*new, *_already_sent(firing, ended))
        if new or _is_repeat_due(group, firing, policy, now)
        else ()
    )
    sent_ids = {each.incident.id for each in incidents}
    updates = [update for each in members for update in _updates_of(each, sent_ids, mute_reasons)]
    return NotificationPlan(
        incidents=incidents,
        updates=tuple(updates),
        due_at=_next_due(members, mute_reasons, policy, now),
    )


def unsent_weight(members: Iterable[GroupedIncident], updates: Iterable[Notification]) -> int:
    """Return the weight of the worst incident that still waits or is muted after a look."""
    updated = {notification.incident_id: notification for notification in updates}
    weights = [
        severity_weight(each.incident.severity)
        for each in members
        if _is_unsent(updated.get(each.incident.id, each.notification))
    ]
    return max(weights, default=0)


def _is_unsent(notification: Notification) -> bool:
    return notification.is_current and notification.state in (NotificationState.WAITING, _MUTED)


def _wait_end(opened_at: datetime, wait: timedelta, now: datetime) -> datetime:
    return min(max(now, opened_at + wait), now + wait)


def is_firing(member: GroupedIncident) -> bool:
    """Return whether an incident goes on."""
    return member.notification.kind is not ChangeKind.RESOLVED


def is_new(member: GroupedIncident) -> bool:
    """Return whether a member's newest notice was not told yet."""
    return member.notification.state is not _SENT


def _ended_before_sent(member: GroupedIncident) -> bool:
    """Tell whether an incident was over before anybody might have been told of it."""
    return not is_firing(member) and member.was_muted and not member.was_firing_notified


def _is_resolution_due(member: GroupedIncident, mute_reasons: Mapping[UUID, MuteReason]) -> bool:
    """Tell whether a message holds an end: one that is news, or that did not arrive yet."""
    is_unsent = is_new(member) and not _ended_before_sent(member)
    return (
        not is_firing(member)
        and member.incident.id not in mute_reasons
        and (is_unsent or (member.is_in_flight and not is_new(member)))
    )


def _already_sent(
    firing: Sequence[GroupedIncident], ended: Sequence[GroupedIncident]
) -> list[GroupedIncident]:
    return [each for each in (*firing, *ended) if not is_new(each)]


def _is_repeat_due(
    group: NotificationGroup, firing: Sequence[GroupedIncident], policy: RoutePolicy, now: datetime
) -> bool:
    """Tell whether what fires is told again: not what somebody has taken on."""
    is_open = any(each.incident.state is IncidentState.OPEN for each in firing)
    if not is_open or group.told_at is None:
        return False
    is_in_future = group.told_at > now  # our clock was set back since
    return is_in_future or now - group.told_at >= policy.repeat_interval


def _updates_of(
    member: GroupedIncident, sent_ids: set[UUID], mute_reasons: Mapping[UUID, MuteReason]
) -> Iterable[Notification]:
    """Yield the notice of a member as it stands now, where that has changed."""
    notification, muted = member.notification, mute_reasons.get(member.incident.id)
    if not is_new(member):
        if not is_firing(member) and not member.is_in_flight:
            yield replace(notification, is_current=False)
    elif member.incident.id in sent_ids:
        yield replace(notification, state=_SENT, mute_reason=None)
    elif _ended_before_sent(member) or (
        muted and not is_firing(member) and not member.was_firing_notified
    ):
        reason = muted.reason if muted else "over before it was no longer muted"
        yield replace(notification, state=_MUTED, mute_reason=reason, is_current=False)
    elif muted and (notification.state, notification.mute_reason) != (_MUTED, muted.reason):
        yield replace(notification, state=_MUTED, mute_reason=muted.reason)


def _next_due(
    members: Sequence[GroupedIncident],
    mute_reasons: Mapping[UUID, MuteReason],
    policy: RoutePolicy,
    now: datetime,
) -> datetime | None:
    """Return when a group is looked at again; None where all of it is over and told."""
    muted = [
        each
        for each in members
        if each.incident.id in mute_reasons
        and is_new(each)
        and (is_firing(each) or each.was_firing_notified)
    ]
    if not muted and not any(map(is_firing, members)):
        return None
    unmuted_at = [mute_reasons[each.incident.id].until for each in muted]
    return min([now + policy.group_interval, *(at for at in unmuted_at if at is not None)])
