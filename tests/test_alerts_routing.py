"""What a group's receiver is told, told as a table: the pure steps of routing."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

import pytest

from alerts.dispatch.grouping import (
    NotificationPlan,
    NotificationPolicy,
    RoutePolicy,
    first_due,
    plan_notification,
)
from alerts.dispatch.muting import MuteReason
from alerts.dispatch.rate_limit import MessageRate, next_borrow_at
from alerts.rules.lifecycle import change_kind
from kit.alerts.routing import acknowledged, an_open_incident, resolved
from kit.storage.fixtures import START
from storage.db.rows.due_groups import ChangedGroup
from storage.records.notifications import (
    ChangeKind,
    GroupedIncident,
    Notification,
    NotificationGroup,
    NotificationState,
    TokenBucket,
)
from storage.records.records import Incident, IncidentState

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
ROUTE = RoutePolicy()
WAITING, TOLD, MUTED = NotificationState.WAITING, NotificationState.SENT, NotificationState.MUTED
GROUP = NotificationGroup(
    id=UUID(int=3), receiver="soc", labels={"camera": "dock"}, number=0, due_at=START, told_at=None
)
SILENT = MuteReason(reason="silence 1234 by ann", until=START + HOUR)
WINDOW = MuteReason(reason="maintenance Sun 02:00-04:00 UTC")
A, B = an_open_incident(1), an_open_incident(2)
NEWS = {
    IncidentState.OPEN: ChangeKind.OPENED,
    IncidentState.ACKNOWLEDGED: ChangeKind.ACKNOWLEDGED,
    IncidentState.RESOLVED: ChangeKind.RESOLVED,
}


def member(
    incident: Incident,
    state: NotificationState = WAITING,
    *,
    firing_told: bool = False,
    was_muted: bool = False,
    on_its_way: bool = False,
) -> GroupedIncident:
    notification = Notification(
        incident_id=incident.id,
        revision=incident.revision,
        receiver="soc",
        group_id=GROUP.id,
        kind=NEWS[incident.state],
        state=state,
        mute_reason=None,
        delivery_id=None,
        is_current=True,
    )
    return GroupedIncident(
        incident=incident,
        notification=notification,
        was_firing_notified=firing_told
        or (state is TOLD and notification.kind is not ChangeKind.RESOLVED),
        was_muted=was_muted or state is MUTED,
        is_in_flight=on_its_way,
    )


@dataclass(frozen=True)
class Case:
    says: str
    members: list[GroupedIncident]
    told: list[Incident]
    marks: list[tuple[Incident, NotificationState, bool]] = field(default_factory=list)
    muted: Mapping[UUID, MuteReason] = field(default_factory=dict)
    told_at: timedelta | None = None
    due: timedelta | None = 5 * MINUTE


OVER = resolved(A)
TAKEN = acknowledged(A)
CASES = [
    Case("nothing there", [], [], due=None),
    Case("what fires is told", [member(A)], [A], [(A, TOLD, True)]),
    Case("what is new comes first", [member(A, TOLD), member(B)], [B, A], [(B, TOLD, True)]),
    Case("what was told is not told again", [member(A, TOLD)], [], told_at=-MINUTE),
    Case("just before its time it is not", [member(A, TOLD)], [], told_at=SECOND - 4 * HOUR),
    Case("until it is time to repeat it", [member(A, TOLD)], [A], told_at=-4 * HOUR),
    Case("what is taken on is told once", [member(TAKEN)], [TAKEN], [(TAKEN, TOLD, True)]),
    Case("and not repeated", [member(TAKEN, TOLD)], [], told_at=-9 * HOUR),
    Case(
        "an end is told where its firing was, and the group ends",
        [member(OVER, firing_told=True)], [OVER], [(OVER, TOLD, True)], due=None,
    ),
    Case(
        "what was over before the group was told is told all the same",
        [member(OVER)], [OVER], [(OVER, TOLD, True)], due=None,
    ),
    Case(
        "an end that arrived leaves the group",
        [member(OVER, TOLD, firing_told=True), member(B)], [B],
        [(OVER, TOLD, False), (B, TOLD, True)],
    ),
    Case(
        "an end still on its way is in the next message",
        [member(OVER, TOLD, firing_told=True, on_its_way=True), member(B)], [B, OVER],
        [(B, TOLD, True)],
    ),
    Case(
        "an end still on its way makes no message",
        [member(OVER, TOLD, firing_told=True, on_its_way=True)], [], due=None,
    ),
    Case(
        "what is muted is not told", [member(A), member(B)], [B],
        [(A, MUTED, True), (B, TOLD, True)], {A.id: WINDOW},
    ),
    Case(
        "what is muted wakes its group when the silence ends", [member(A)], [],
        [(A, MUTED, True)], {A.id: replace(SILENT, until=START + MINUTE)}, due=MINUTE,
    ),
    Case(
        "what still fires when nothing mutes it is told", [member(A, MUTED)], [A],
        [(A, TOLD, True)],
    ),
    Case(
        "what ended while it was muted is told to nobody",
        [member(OVER, was_muted=True)], [], [(OVER, MUTED, False)], due=None,
    ),
    Case(
        "what ended and was never told, and is muted now, is told to nobody",
        [member(OVER)], [], [(OVER, MUTED, False)], {A.id: SILENT}, due=None,
    ),
    Case(
        "the end of what was told is held as long as it is muted",
        [member(OVER, firing_told=True)], [], [(OVER, MUTED, True)], {A.id: SILENT},
    ),
    Case(
        "and told then", [member(OVER, MUTED, firing_told=True)], [OVER], [(OVER, TOLD, True)],
        due=None,
    ),
    Case(
        "what was told and is muted now is in no message", [member(A, TOLD), member(B)], [B],
        [(B, TOLD, True)], {A.id: SILENT},
    ),
    Case(
        "nor repeated", [member(A, TOLD)], [], [], {A.id: SILENT}, told_at=-9 * HOUR,
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_plan(case: Case) -> None:
    told_at = None if case.told_at is None else START + case.told_at
    planned: NotificationPlan = plan_notification(
        replace(GROUP, told_at=told_at), case.members, case.muted, ROUTE, START
    )
    assert [each.incident for each in planned.incidents] == case.told
    marked = [(mark.incident_id, mark.state, mark.is_current) for mark in planned.updates]
    assert marked == [(incident.id, state, current) for incident, state, current in case.marks]
    assert planned.due_at == (None if case.due is None else START + case.due)


def arrived(
    opened: float | None = None, urgent: float | None = None, **changed: object
) -> ChangedGroup:
    """Something new in a group, at seconds from START."""
    return ChangedGroup(
        group=replace(GROUP, **{"due_at": None} | changed),  # type: ignore[arg-type]
        opened_at=None if opened is None else START + opened * SECOND,
        urgent_at=None if urgent is None else START + urgent * SECOND,
    )


@pytest.mark.parametrize(
    ("opened", "wait", "due"),
    [
        (0, 30, 30),  # just now
        (-10, 30, 20),  # the findings came late
        (-90, 30, 0),  # longwatch was down meanwhile
        (+90, 30, 30),  # a camera whose clock is ahead
        (0, 0, 0),
    ],
)
def test_new_group_waits_for_others_as_long_as_it_should(opened: int, wait: int, due: int) -> None:
    route = replace(ROUTE, group_wait=wait * SECOND)
    assert first_due(arrived(opened), route, START) == START + due * SECOND


@pytest.mark.parametrize(
    ("arrival", "due"),
    [
        (arrived(0, 0), 2),  # new, and its first incident is urgent
        (arrived(-10, 0), 2),  # the first one was not
        (arrived(-29, 0), 1),  # whichever comes first
        (arrived(-1, 0, due_at=START + 29 * SECOND), 2),  # it joins a group that waits
        (arrived(0, due_at=START + 29 * SECOND), 29),  # what is not urgent joins it
        (arrived(0, 0, due_at=START + 4 * MINUTE, told_at=START - MINUTE), 2),
        (arrived(0, 0, due_at=START + 5 * MINUTE, told_at=START), 60),  # not at every newcomer
        (arrived(0, due_at=START + 4 * MINUTE, told_at=START - MINUTE), 240),
        (arrived(0, 0, due_at=START, told_at=START - SECOND), 0),  # its time has come anyway
        (arrived(0, 0, due_at=START + 5 * MINUTE, told_at=START + HOUR), 2),  # clock set back
        (arrived(), None),  # nothing waits in it
    ],
)
def test_urgent_incident_waits_less(arrival: ChangedGroup, due: float | None) -> None:
    expected = None if due is None else START + due * SECOND
    assert first_due(arrival, ROUTE, START) == expected


def test_defaults_are_those_of_alertmanager() -> None:
    assert (ROUTE.group_wait, ROUTE.group_interval) == (30 * SECOND, 5 * MINUTE)
    assert (ROUTE.repeat_interval, ROUTE.group_by) == (4 * HOUR, ("camera", "rule"))
    assert (ROUTE.urgent_wait, ROUTE.digest_after) == (2 * SECOND, 20)


def test_receiver_may_have_a_route_of_its_own() -> None:
    routing = NotificationPolicy(receivers={"pager": replace(ROUTE, group_by=("severity",))})
    assert routing.group_labels(A, ["soc", "pager"]) == {
        "soc": {"camera": "dock", "rule": "bag-left"},
        "pager": {"severity": "high"},
    }


@pytest.mark.parametrize(
    ("before", "after", "news"),
    [
        (None, A, ChangeKind.OPENED),
        (A, replace(A, revision=2), None),
        (A, TAKEN, ChangeKind.ACKNOWLEDGED),
        (TAKEN, replace(TAKEN, revision=3), None),
        (TAKEN, OVER, ChangeKind.RESOLVED),
        (None, replace(A, state=IncidentState.PENDING), None),
        (None, replace(A, state=IncidentState.DISMISSED), None),
    ],
)
def test_change_is_news_or_not(before: Incident | None, after: Incident, news: ChangeKind) -> None:
    assert change_kind(before, after) == news


def test_bucket_holds_an_hour_and_fills_with_time() -> None:
    rate = MessageRate(count=60, per=HOUR)
    full = rate.refilled_bucket(None, START)
    assert (full.tokens, rate.next_token_at(full)) == (60.0, START)
    empty = TokenBucket(tokens=0.0, at=START)
    assert rate.next_token_at(empty) == START + MINUTE
    assert rate.refilled_bucket(empty, START + 90 * SECOND).tokens == 1.5
    assert rate.refilled_bucket(empty, START + 9 * HOUR).tokens == 60.0


def test_clock_that_is_set_back_gives_no_tokens_and_takes_none() -> None:
    rate = MessageRate(count=60, per=HOUR)
    bucket = rate.refilled_bucket(TokenBucket(tokens=0.5, at=START), START - HOUR)
    assert bucket == TokenBucket(tokens=0.5, at=START - HOUR)


def test_critical_message_borrows_a_token_once_a_minute_and_owes_no_more_than_it_holds() -> None:
    rate = MessageRate(count=2, per=HOUR)
    bucket = TokenBucket(tokens=0.0, at=START)
    assert next_borrow_at(bucket, START) == START
    for owed in (1, 2, 2):
        bucket = rate.borrowed_bucket(bucket, START)
        assert (bucket.tokens, next_borrow_at(bucket, START)) == (-owed, START + MINUTE)
    assert rate.next_token_at(bucket) == START + 90 * MINUTE
    assert rate.refilled_bucket(bucket, START + HOUR).tokens == 0.0
    assert rate.refilled_bucket(bucket, START + HOUR).borrowed_at == START
    assert next_borrow_at(bucket, START - HOUR) == START - HOUR  # the clock was set back
