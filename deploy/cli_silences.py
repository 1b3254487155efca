"""The commands about silences: `longwatch silence add|list|expire`.

Each spawned process reads this module again, so that all else is imported by the commands.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.console import AsJson, MaybeConfig, MaybeData, instant, open_store, show, show_rows
from deploy.errors import BadSettings, Failed

if TYPE_CHECKING:
    from storage.silences import SilenceRow, SilenceStore

silence = typer.Typer(no_args_is_help=True, help="Mute alerts for a time.")

LONGEST = 500
"""Characters of a comment."""


@silence.command("add")
def add_silence(
    matchers: Annotated[
        list[str], typer.Argument(help="camera, rule or severity, then = != =~ or !~ and a value.")
    ],
    *,
    for_: Annotated[str, typer.Option("--for", help="How long, say 2h.")],
    start: Annotated[str | None, typer.Option(help="From when on; else from now on.")] = None,
    by: Annotated[str | None, typer.Option("--by", help="Who you are; else your login.")] = None,
    comment: Annotated[str, typer.Option("--comment", "-m", help="Why.")] = "",
    config: MaybeConfig = None,
    data: MaybeData = None,
    as_json: AsJson = False,
) -> None:
    """Mute what fits all matchers; what still fires when it ends is told then."""
    import getpass
    from uuid import uuid4

    from alerts.silences import matchers_of
    from storage.silences import SilenceRow

    began = instant("--start", start) if start else datetime.now(UTC)
    try:
        texts = tuple(each.text for each in matchers_of(matchers))
    except ValueError as error:
        raise BadSettings(str(error)) from None
    row = SilenceRow(
        id=uuid4(),
        matchers=texts,
        start=began,
        end=_end(began, for_),
        who=_plain("--by", by or getpass.getuser(), 64),
        comment=_plain("--comment", comment, LONGEST),
    )
    _silences(config, data).add(row)
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
    found = _silences(config, data).all(None if all_ else now)
    rows = [_fields(each, now) for each in found]
    if not as_json:
        rows = [row | {"matchers": ", ".join(row["matchers"])} for row in rows]
    columns = ["id", "matchers", "start", "end", "who", "comment", "state"]
    show_rows(rows, columns, as_json)


@silence.command("expire")
def expire_silence(
    id: Annotated[str, typer.Argument(help="The id of a silence, or how it begins.")],
    *,
    config: MaybeConfig = None,
    data: MaybeData = None,
    as_json: AsJson = False,
) -> None:
    """End a silence now; what it muted and still fires is told."""
    silences = _silences(config, data)
    try:
        found = silences.find(id)
    except ValueError as error:
        raise BadSettings(f"{error}: write more of the id") from None
    if found is None:
        raise Failed(f"no silence begins with {id}: see `longwatch silence list`")
    if not silences.expire(found.id, datetime.now(UTC)):
        raise Failed(f"{str(found.id)[:8]} has ended at {found.end:%Y-%m-%d %H:%M:%SZ}")
    show({"expired": str(found.id)} if as_json else f"{str(found.id)[:8]} mutes nothing any more")


def _end(start: datetime, text: str) -> datetime:
    from storage.duration import parse_duration

    try:
        lasts = parse_duration(text)
    except ValueError as error:
        raise BadSettings(f"--for: {error}") from None
    if not lasts:
        raise BadSettings("--for: it would end as it begins: make it longer")
    return start + lasts


def _plain(option: str, text: str, longest: int) -> str:
    if not text.isprintable() or len(text) > longest:
        raise BadSettings(f"{option}: at most {longest} printable characters")
    return text


def _silences(config: Path | None, data: Path | None) -> "SilenceStore":
    from storage.silences import SilenceStore

    return SilenceStore(open_store(config, data))


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
