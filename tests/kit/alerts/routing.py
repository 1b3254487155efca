"""Routes that wait for nothing, and incidents that people are to hear of."""

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid5

from alerts.dispatch.dispatcher import Dispatcher
from alerts.dispatch.grouping import NotificationPolicy, RoutePolicy
from alerts.rules.lifecycle import change_kind
from kit.storage.fixtures import START, an_incident, by_rule
from storage.db.alert_store import AlertStore
from storage.records.records import Incident, IncidentState

NO_TIME = timedelta()
AT_ONCE = NotificationPolicy(
    default=RoutePolicy(group_wait=NO_TIME, group_interval=NO_TIME, rate_limit=None)
)


def dispatch_all(store: AlertStore, now: datetime, policy: NotificationPolicy = AT_ONCE) -> int:
    """Let a router look once."""
    return Dispatcher(store, policy).run_once(now)


def an_open_incident(number: int = 1, camera: str = "dock", rule: str = "bag-left") -> Incident:
    """An incident that has opened; its rule's version is its own, so that many may be live."""
    return replace(
        an_incident(),
        id=uuid5(UUID(int=7), f"{camera}/{rule}/{number}"),
        camera=camera,
        rule=rule,
        rule_version=f"r{number}",
        opened_at=START,
        first_seen_at=START,
        last_seen_at=START,
        summary=f"{rule} on {camera}",
    )


def resolved(incident: Incident, at: datetime | None = None) -> Incident:
    return replace(
        incident,
        state=IncidentState.RESOLVED,
        closed_at=at or START,
        revision=incident.revision + 1,
    )


def acknowledged(incident: Incident) -> Incident:
    return replace(incident, state=IncidentState.ACKNOWLEDGED, revision=incident.revision + 1)


def save_and_notify(
    store: AlertStore,
    after: Incident,
    before: Incident | None = None,
    receivers: tuple[str, ...] = ("soc",),
    policy: NotificationPolicy = AT_ONCE,
) -> Incident:
    """Save a revision and write who is to hear of it, in one transaction."""
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(after)])
        kind = change_kind(before, after)
        assert kind is not None
        transaction.notifications.enqueue(after, kind, policy.group_labels(after, receivers))
    return after
