"""What people do to incidents from the command line, and the trail that tells of it."""

import getpass
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from alerts import incidents as steps
from alerts.publish import Change, publish
from deploy.errors import BadSettings, Failed
from storage.chain import Anchor
from storage.records import Incident

if TYPE_CHECKING:
    from storage.incidents import IncidentStore
    from storage.log import Log

MOST_NAME, MOST_NOTE = 64, 500
_WRITE = "write NUMBER:DIGEST,NUMBER:DIGEST as `longwatch audit verify` printed it"

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
    """Take an incident one revision further and publish it; raise Failed.

    If it is news, those who had a notice of it hear of it, and those whom `hears` names.
    """
    who = _plain("--by", by or getpass.getuser(), MOST_NAME)
    told = _plain("--note", note, MOST_NOTE) if note else ""
    found = find(store, id)
    try:
        with store.transaction() as ledger:
            before = ledger.incident(found.id)
            changed = step(before, who, datetime.now(UTC))
            groups = hears(changed)
            made = Change(before=before, after=changed, who=who, note=told, groups=groups)
            publish(ledger, log, [made])
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


def anchors(text: str) -> tuple[Anchor, Anchor | None]:
    """Read NUMBER:DIGEST,NUMBER:DIGEST as `audit verify` prints it; raise BadSettings.

    The second anchor is that of the acts: one that was printed before there were any has none.
    """
    trail, *others = map(_anchor, text.split(","))
    if len(others) > 1:
        raise BadSettings(f"--since: {_WRITE}")
    return trail, others[0] if others else None


def _anchor(text: str) -> Anchor:
    number, _, digest = text.partition(":")
    if not number.isdecimal() or len(digest) != 64:
        raise BadSettings(f"--since: {_WRITE}")
    return Anchor(number=int(number), digest=digest)


def _plain(option: str, text: str, longest: int) -> str:
    if not text.isprintable() or len(text) > longest:
        raise BadSettings(f"{option}: at most {longest} printable characters")
    return text
