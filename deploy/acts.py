"""What people do to incidents from the command line, and the trail that tells of it."""

import getpass
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from alerts import incidents as steps
from alerts.routing import news_of
from deploy.errors import BadSettings, Failed
from storage.log import INCIDENTS
from storage.records import Incident, Revision
from storage.wire import encode_incident

if TYPE_CHECKING:
    from storage.incidents import IncidentStore
    from storage.log import Log

MOST_NAME, MOST_NOTE = 64, 500

Id = Annotated[str, typer.Argument(help="The id of an incident, or how it begins.")]
By = Annotated[str | None, typer.Option("--by", help="Who you are; else your login name.")]
Note = Annotated[str, typer.Option("--note", "-m", help="What others should know.")]
Step = Callable[[Incident, str, datetime], Incident]
Hears = Callable[[Incident], Mapping[str, Mapping[str, str]]]
"""Says who is to hear of an incident, and the labels of the group that each hears of it in."""


def nobody_more(_: Incident) -> Mapping[str, Mapping[str, str]]:
    """Name nobody."""
    return {}


def act(
    store: "IncidentStore",
    log: "Log",
    id: str,
    step: Step,
    *,
    by: str | None,
    note: str,
    hears: Hears = nobody_more,
) -> Incident:
    """Take an incident one revision further, on the trail and on the log; raise Failed.

    If it is news, those who had a notice of it hear of it, and those whom `hears` names. The
    log comes before the commit, as where rules change incidents.
    """
    who = _plain("--by", by or getpass.getuser(), MOST_NAME)
    told = _plain("--note", note, MOST_NOTE) if note else ""
    found = find(store, id)
    try:
        with store.transaction() as ledger:
            before = ledger.incident(found.id)
            changed = step(before, who, datetime.now(UTC))
            ledger.save([Revision(incident=changed, who=who, note=told)])
            if (news := news_of(before, changed)) is not None:
                ledger.routing.notify_again(changed, news)
                ledger.routing.notify(changed, news, hears(changed))
            log.append(INCIDENTS, changed.camera, encode_incident(changed))
    except steps.NotPossible as error:
        raise Failed(f"{str(found.id)[:8]}: {error}") from None
    return changed


def find(store: "IncidentStore", id: str) -> Incident:
    """Return the incident whose id begins so; raise BadSettings or Failed."""
    try:
        incident = store.incident(id)
    except ValueError as error:
        raise BadSettings(f"{error}: write more of the id") from None
    if incident is None:
        raise Failed(f"no incident begins with {id}: see `longwatch incidents list`")
    return incident


def anchor(text: str) -> tuple[int, str]:
    """Read NUMBER:DIGEST as `audit verify` prints it; raise BadSettings."""
    number, _, digest = text.partition(":")
    if not number.isdecimal() or len(digest) != 64:
        raise BadSettings("--since: write NUMBER:DIGEST as `longwatch audit verify` printed it")
    return int(number), digest


def _plain(option: str, text: str, longest: int) -> str:
    if not text.isprintable() or len(text) > longest:
        raise BadSettings(f"{option}: at most {longest} printable characters")
    return text
