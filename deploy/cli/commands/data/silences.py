"""`longwatch silence`: add, list and expire silences."""

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from deploy.cli.common import (
    ByOption,
    DataOption,
    JsonOption,
    Listing,
    NoteOption,
    OptionalConfigOption,
    check_printable,
    find_by_prefix,
    parse_instant,
    show,
)
from deploy.cli.store import DataOptions, open_store
from deploy.errors import BadSettings, CommandFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alerts.dispatch.muting import Matcher
    from storage.db.alert_store import AlertStore
    from storage.db.silences import SilenceRow

silence = typer.Typer(no_args_is_help=True, help="Mute notifications for a time.")

MAX_COMMENT_LENGTH = 500
"""Characters of a comment."""


@silence.command("add")
def add_silence(
    matchers: Annotated[
        list[str],
        typer.Argument(
            help="camera, rule or severity, then = or != and a name or glob, or =~ or !~ and a"
            " regular expression."
        ),
    ],
    *,
    for_: Annotated[str, typer.Option("--for", help="How long, say 2h.")],
    start: Annotated[
        str | None, typer.Option(help="When it starts (ISO 8601). Default: now.")
    ] = None,
    by: ByOption = None,
    comment: Annotated[str, typer.Option("--comment", "-m", help="The reason.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Add it even if no camera or rule has this name.")
    ] = False,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mute notifications of incidents that match all matchers.

    When the silence ends, incidents that are still open are notified.
    """
    from deploy.cli.incident_actions import get_actor
    from storage.db.audit.actions import ActionOrigin
    from storage.db.silences import SilenceRow

    start_at = parse_instant("--start", start) if start else datetime.now(UTC)
    parsed = _parse_matchers(matchers)
    texts = tuple(each.text for each in parsed)
    row = SilenceRow(
        id=uuid4(),
        matchers=texts,
        start=start_at,
        end=_parse_end(start_at, for_),
        who=get_actor(by).who,
        comment=check_printable("--comment", comment, MAX_COMMENT_LENGTH),
    )
    options = DataOptions(config, data)
    with open_store(options, is_writing=True) as store:
        _check_names(parsed, _known_labels(store.incidents, options), force=force)
        store.silences.add(row, ActionOrigin.CLI)
    message = f"{str(row.id)[:8]} mutes {', '.join(texts)} until {row.end:%Y-%m-%d %H:%M:%SZ}"
    show(_silence_fields(row, start_at) if as_json else message)


def _parse_matchers(texts: list[str]) -> "tuple[Matcher, ...]":
    from alerts.dispatch.muting import parse_matchers

    try:
        return parse_matchers(texts)
    except ValueError as error:
        raise BadSettings(str(error)) from None


@silence.command("list")
def list_silences(
    *,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    all_: Annotated[bool, typer.Option("--all", help="List ended silences, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List silences, by their end."""
    now = datetime.now(UTC)
    columns = ("id", "matchers", "start", "end", "who", "comment", "state")
    with open_store(DataOptions(config, data)) as store:
        found = store.silences.all(None if all_ else now)
    listing = Listing(columns=columns, fields=partial(_silence_fields, now=now))
    listing.show(found, as_json=as_json)


@silence.command("expire")
def expire_silence(
    id: Annotated[str, typer.Argument(help="The id of a silence, or its beginning.")],
    *,
    by: ByOption = None,
    note: NoteOption = "",
    config: OptionalConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a silence now; incidents that are still open are notified."""
    from deploy.cli.incident_actions import check_note, get_actor

    actor, note_text = get_actor(by), check_note(note)
    with open_store(DataOptions(config, data), is_writing=True) as store:
        found = find_by_prefix(store.silences.find, id, "silence", "silence list")
        if not store.silences.expire(found.id, datetime.now(UTC), actor, note_text):
            raise CommandFailed(f"{str(found.id)[:8]} has ended at {found.end:%Y-%m-%d %H:%M:%SZ}")
    show({"expired": str(found.id)} if as_json else f"{str(found.id)[:8]} has ended")


def _known_labels(store: "AlertStore", options: DataOptions) -> dict[str, set[str]]:
    """Return the values of each label in settings, incidents and coverage."""
    from typing import get_args

    from alerts.settings import Severity
    from deploy.config.partial_settings import NamesSubset
    from deploy.config.settings_file import read_subset
    from storage.db.silences import known_cameras_and_rules

    cameras, rules = known_cameras_and_rules(store)
    file = options.find_config()
    if file is not None:
        names = read_subset(file, NamesSubset)
        cameras |= {*names.cameras, *(f"receiver/{name}" for name in names.receivers)}
        rules |= {rule.name for rule in names.rules}
    return {"camera": cameras, "rule": rules, "severity": set(get_args(Severity))}


def _check_names(matchers: "Sequence[Matcher]", known: dict[str, set[str]], *, force: bool) -> None:
    """Raise BadSettings for an unknown name; warn of a pattern that matches no name."""
    from deploy.config.problems import suggestion
    from deploy.config.settings import unknown_name

    for each in matchers:
        names = sorted(known[each.label])
        if not names or any(each.matches(name) for name in names):
            continue
        if each.is_name and not force:
            message = f"{each.text}: {unknown_name(each.label, each.value, names)}"
            hint = suggestion(each.value, names) or ":"
            raise BadSettings(f"{message}{hint} --force adds it nevertheless")
        typer.echo(f"warning: {each.text} matches no known {each.label}", err=True)


def _parse_end(start: datetime, text: str) -> datetime:
    from storage.duration import parse_duration

    try:
        duration = parse_duration(text)
    except ValueError as error:
        raise BadSettings(f"--for: {error}") from None
    if not duration:
        raise BadSettings("--for: the silence would be empty: make it longer")
    return start + duration


def _silence_fields(row: "SilenceRow", now: datetime) -> dict[str, Any]:
    state = "pending" if row.start > now else "active" if row.end > now else "expired"
    return {
        "id": str(row.id),
        "matchers": list(row.matchers),
        "start": row.start.isoformat(),
        "end": row.end.isoformat(),
        "who": row.who,
        "comment": row.comment,
        "state": state,
    }
