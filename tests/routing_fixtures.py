"""Routes that wait for nothing, and incidents that people are to hear of."""

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid5

from storage_fixtures import START, an_incident, by_rule

from alerts.router import Router
from alerts.routing import Route, Routing, news_of
from storage.incidents import IncidentStore
from storage.records import Incident, IncidentState

NO_TIME = timedelta()
AT_ONCE = Routing(default=Route(group_wait=NO_TIME, group_interval=NO_TIME, rate_limit=None))


def route_all(store: IncidentStore, now: datetime, routing: Routing = AT_ONCE) -> int:
    """Let a router look once."""
    return Router(store, routing).run_once(now)


def an_open(number: int = 1, camera: str = "dock", rule: str = "bag-left") -> Incident:
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


def change(
    store: IncidentStore,
    after: Incident,
    before: Incident | None = None,
    receivers: tuple[str, ...] = ("soc",),
    routing: Routing = AT_ONCE,
) -> Incident:
    """Save a revision and write who is to hear of it, in one transaction."""
    with store.transaction() as ledger:
        ledger.save([by_rule(after)])
        news = news_of(before, after)
        assert news is not None
        ledger.routing.notify(after, news, routing.groups_of(after, receivers))
    return after
