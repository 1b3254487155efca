"""Grouping and repetition of notifications, as plain values and pure steps.

Words and defaults are Alertmanager's (its documentation, "Configuration", `route`, and
`notify.DedupStage`). A new group waits `group_wait` for other incidents to join it. A notified
group is flushed every `group_interval`, and a firing one is notified again after
`repeat_interval`. A message contains the whole group: all firing incidents, and those resolved
since. There is one difference: an incident that opened and ended before the first notification of
its group is sent too unless it was muted, as even a short incident may matter.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from alerts.dispatch.muting import Inhibition, Maintenance, MuteReason
from alerts.dispatch.rate_limit import URGENT_INTERVAL, MessageRate
from storage.db.rows.due_groups import ChangedGroup, severity_weight
from storage.records.notifications import (
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
    """How a receiver is notified; `rate_limit` None means no limit.

    A new group waits `group_wait` after its first incident, or `urgent_wait` after its first
    incident of severity high or critical. If more than `digest_after` groups are due at once, the
    receiver gets one digest of them.
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
        """Return the longest time between two flushes of a group."""
        interval = self.rate_limit.interval if self.rate_limit else timedelta()
        return max(self.group_wait, self.group_interval, interval, URGENT_INTERVAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationPolicy:
    """How all receivers are notified.

    `pagers` are the receivers that get one alert per incident, as PagerDuty does.
    """

    default: RoutePolicy = RoutePolicy()
    receivers: Mapping[str, RoutePolicy] = field(default_factory=dict)
    inhibitions: tuple[Inhibition, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    health_rules: frozenset[str] = frozenset()
    pagers: frozenset[str] = frozenset()

    def policy_for(self, receiver: str) -> RoutePolicy:
        """Return the policy of a receiver."""
        return self.receivers.get(receiver, self.default)

    @property
    def longest_wait(self) -> timedelta:
        """Return the longest time between two flushes of any group."""
        return max(each.longest_wait for each in (self.default, *self.receivers.values()))

    def group_labels(
        self, incident: Incident, receivers: Iterable[str]
    ) -> dict[str, dict[str, str]]:
        """Return the labels of an incident's group, for each receiver."""
        return {
            receiver: {
                label: getattr(incident, label) for label in self.policy_for(receiver).group_by
            }
            for receiver in receivers
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationPlan:
    """The incidents to send, new ones first, the notifications to update, and the next flush.

    No message is sent if `incidents` is empty.
    """

    incidents: tuple[GroupedIncident, ...]
    updates: tuple[Notification, ...]
    due_at: datetime | None


def first_due(arrival: ChangedGroup, policy: RoutePolicy, now: datetime) -> datetime | None:
    """Return when a group with a changed incident is due.

    A new group is due `group_wait` after its first incident opened. A waiting or notified group
    keeps its time, unless an incident of severity high or critical opens in it. That one is due
    `urgent_wait` later, but not within URGENT_INTERVAL of the group's last message; a message in
    the future is ignored.
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
    """Return which incidents of a due group to send, and how its notifications change."""
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
    """Return the weight of the worst incident that waits or is muted after the updates."""
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
    """Return whether an incident fires."""
    return member.notification.kind is not ChangeKind.RESOLVED


def is_new(member: GroupedIncident) -> bool:
    """Return whether a member's newest notification is unsent."""
    return member.notification.state is not _SENT


def _ended_before_sent(member: GroupedIncident) -> bool:
    """Return whether an incident ended while muted, before any notification of it."""
    return not is_firing(member) and member.was_muted and not member.was_firing_notified


def _is_resolution_due(member: GroupedIncident, mute_reasons: Mapping[UUID, MuteReason]) -> bool:
    """Return whether a message includes a resolution: a new one, or one not delivered yet."""
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
    """Return whether firing incidents are sent again; acknowledged ones are not."""
    is_open = any(each.incident.state is IncidentState.OPEN for each in firing)
    if not is_open or group.told_at is None:
        return False
    is_in_future = group.told_at > now  # our clock was set back since
    return is_in_future or now - group.told_at >= policy.repeat_interval


def _updates_of(
    member: GroupedIncident, sent_ids: set[UUID], mute_reasons: Mapping[UUID, MuteReason]
) -> Iterable[Notification]:
    """Yield the notification of a member if it changed."""
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
    """Return when a group is due again; None if all of it is over and sent."""
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
