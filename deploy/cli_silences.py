"""The commands about silences: `longwatch silence add|list|expire`."""

from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.console import (
    AsJson,
    By,
    MaybeConfig,
    MaybeData,
    Note,
    found_by,
    instant,
    plain_text,
    show,
    show_rows,
)
from deploy.errors import BadSettings, Failed
from deploy.store import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alerts.silences import Matcher
    from storage.incidents import IncidentStore
    from storage.silences import SilenceRow

silence = typer.Typer(no_args_is_help=True, help="Mute alerts for a time.")

LONGEST = 500
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
    by: By = None,
    comment: Annotated[str, typer.Option("--comment", "-m", help="Why.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Also where no camera or rule is called so.")
    ] = False,
    config: MaybeConfig = None,
    data: MaybeData = None,
    as_json: AsJson = False,
) -> None:
    """Mute what fits all matchers; what still fires when it ends is told then."""
    from uuid import uuid4

    from alerts.silences import matchers_of
    from deploy.acts import actor_of
    from storage.acts import How
    from storage.silences import SilenceRow

    began = instant("--start", start) if start else datetime.now(UTC)
    try:
        parsed = matchers_of(matchers)
    except ValueError as error:
        raise BadSettings(str(error)) from None
    texts = tuple(each.text for each in parsed)
    row = SilenceRow(
        id=uuid4(),
        matchers=texts,
        start=began,
        end=_end(began, for_),
        who=actor_of(by).who,
        comment=plain_text("--comment", comment, LONGEST),
    )
    with open_store(config, data, writing=True) as store:
        _check_names(parsed, _known_labels(store.incidents, config, data), force=force)
        store.silences.add(row, How.CLI)
    told = f"{str(row.id)[:8]} mutes {', '.join(texts)} until {row.end:%Y-%m-%d %H:%M:%SZ}"
    show(_fields(row, began) if as_json else told)


@silence.command("list")
def list_silences(
    *,
    config: MaybeConfig = None,
    data: MaybeData = None,
    all_: Annotated[bool, typer.Option("--all", help="Those that have ended, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List silences, by when they end."""
    now = datetime.now(UTC)
    with open_store(config, data) as store:
        rows = [_fields(each, now) for each in store.silences.all(None if all_ else now)]
    columns = ["id", "matchers", "start", "end", "who", "comment", "state"]
    show_rows(rows, columns, as_json)


@silence.command("expire")
def expire_silence(
    id: Annotated[str, typer.Argument(help="The id of a silence, or how it begins.")],
    *,
    by: By = None,
    note: Note = "",
    config: MaybeConfig = None,
    data: MaybeData = None,
    as_json: AsJson = False,
) -> None:
    """End a silence now; what it muted and still fires is told."""
    from deploy.acts import actor_of, plain_note

    actor, said = actor_of(by), plain_note(note)
    with open_store(config, data, writing=True) as store:
        found = found_by(store.silences.find, id, "silence", "silence list")
        if not store.silences.expire(found.id, datetime.now(UTC), actor, said):
            raise Failed(f"{str(found.id)[:8]} has ended at {found.end:%Y-%m-%d %H:%M:%SZ}")
    show({"expired": str(found.id)} if as_json else f"{str(found.id)[:8]} mutes nothing any more")


def _known_labels(
    store: "IncidentStore", config: Path | None, data: Path | None
) -> dict[str, set[str]]:
    """Return the values of each label that settings, incidents and coverage name."""
    from typing import get_args

    from alerts.settings import Severity
    from deploy.config_file import read_part
    from deploy.data import chosen_config
    from deploy.parts import NamesPart
    from storage.silences import labels_of

    cameras, rules = labels_of(store)
    file = chosen_config(config, data)
    if file is not None:
        part = read_part(file, NamesPart)
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
            told = f"{each.text}: no {each.label} is called so, {hint}"
            raise BadSettings(f"{told} --force adds it all the same")
        typer.echo(f"warning: {each.text} matches no {each.label} that is known", err=True)


def _end(start: datetime, text: str) -> datetime:
    from storage.duration import parse_duration

    try:
        lasts = parse_duration(text)
    except ValueError as error:
        raise BadSettings(f"--for: {error}") from None
    if not lasts:
        raise BadSettings("--for: it would end as it begins: make it longer")
    return start + lasts


def _fields(row: "SilenceRow", now: datetime) -> dict[str, Any]:
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
