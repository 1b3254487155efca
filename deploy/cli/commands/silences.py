"""The commands about silences: `longwatch silence add|list|expire`."""

from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.common import (
    ByOption,
    DataOption,
    JsonOption,
    NoteOption,
    OptionalConfigOption,
    check_printable,
    find_by_prefix,
    parse_instant,
    show,
    show_rows,
)
from deploy.cli.store import open_store
from deploy.errors import BadSettings, CommandFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alerts.dispatch.muting import Matcher
    from storage.db.alert_store import AlertStore
    from storage.db.silences import SilenceRow

silence = typer.Typer(no_args_is_help=True, help="Mute alerts for a time.")

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
    start: Annotated[str | None, typer.Option(help="From when on; else from now on.")] = None,
    by: ByOption = None,
    comment: Annotated[str, typer.Option("--comment", "-m", help="Why.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Also where no camera or rule is called so.")
    ] = False,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mute what fits all matchers; what still fires when it ends is told then."""
    from uuid import uuid4

    from alerts.dispatch.muting import parse_matchers
    from deploy.cli.incident_actions import get_actor
    from storage.db.audit.actions import ActionOrigin
    from storage.db.silences import SilenceRow

    start_at = parse_instant("--start", start) if start else datetime.now(UTC)
    try:
        parsed = parse_matchers(matchers)
    except ValueError as error:
        raise BadSettings(str(error)) from None
    texts = tuple(each.text for each in parsed)
    row = SilenceRow(
        id=uuid4(),
        matchers=texts,
        start=start_at,
        end=_parse_end(start_at, for_),
        who=get_actor(by).who,
        comment=check_printable("--comment", comment, MAX_COMMENT_LENGTH),
    )
    with open_store(config, data, is_writing=True) as store:
        _check_names(parsed, _known_labels(store.incidents, config, data), force=force)
        store.silences.add(row, ActionOrigin.CLI)
    message = f"{str(row.id)[:8]} mutes {', '.join(texts)} until {row.end:%Y-%m-%d %H:%M:%SZ}"
    show(_silence_fields(row, start_at) if as_json else message)


@silence.command("list")
def list_silences(
    *,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    all_: Annotated[bool, typer.Option("--all", help="Those that have ended, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List silences, by when they end."""
    now = datetime.now(UTC)
    with open_store(config, data) as store:
        rows = [_silence_fields(each, now) for each in store.silences.all(None if all_ else now)]
    columns = ["id", "matchers", "start", "end", "who", "comment", "state"]
    show_rows(rows, columns, as_json)


@silence.command("expire")
def expire_silence(
    id: Annotated[str, typer.Argument(help="The id of a silence, or how it begins.")],
    *,
    by: ByOption = None,
    note: NoteOption = "",
    config: OptionalConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a silence now; what it muted and still fires is told."""
    from deploy.cli.incident_actions import check_note, get_actor

    actor, note_text = get_actor(by), check_note(note)
    with open_store(config, data, is_writing=True) as store:
        found = find_by_prefix(store.silences.find, id, "silence", "silence list")
        if not store.silences.expire(found.id, datetime.now(UTC), actor, note_text):
            raise CommandFailed(f"{str(found.id)[:8]} has ended at {found.end:%Y-%m-%d %H:%M:%SZ}")
    show({"expired": str(found.id)} if as_json else f"{str(found.id)[:8]} mutes nothing any more")


def _known_labels(
    store: "AlertStore", config: Path | None, data: Path | None
) -> dict[str, set[str]]:
    """Return the values of each label that settings, incidents and coverage name."""
    from typing import get_args

    from alerts.settings import Severity
    from deploy.config.data_dir import choose_config
    from deploy.config.partial_settings import NamesSubset
    from deploy.config.settings_file import read_subset
    from storage.db.silences import known_cameras_and_rules

    cameras, rules = known_cameras_and_rules(store)
    file = choose_config(config, data)
    if file is not None:
        part = read_subset(file, NamesSubset)
        cameras |= {*part.cameras, *(f"receiver/{name}" for name in part.receivers)}
        rules |= {rule.name for rule in part.rules}
    return {"camera": cameras, "rule": rules, "severity": set(get_args(Severity))}


def _check_names(matchers: "Sequence[Matcher]", known: dict[str, set[str]], *, force: bool) -> None:
    """Raise BadSettings for a name that nothing has; say where a pattern matches nothing yet."""
    for each in matchers:
        names = sorted(known[each.label])
        if not names or any(each.matches(name) for name in names):
            continue
        if each.is_name and not force:
            close = get_close_matches(each.value, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(names)};"
            message = f"{each.text}: no {each.label} is called so, {hint}"
            raise BadSettings(f"{message} --force adds it all the same")
        typer.echo(f"warning: {each.text} matches no {each.label} that is known", err=True)


def _parse_end(start: datetime, text: str) -> datetime:
    from storage.duration import parse_duration

    try:
        duration = parse_duration(text)
    except ValueError as error:
        raise BadSettings(f"--for: {error}") from None
    if not duration:
        raise BadSettings("--for: it would end as it begins: make it longer")
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
