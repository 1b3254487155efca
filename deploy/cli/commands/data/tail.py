"""`longwatch tail`: findings and incidents as they come, from the log, whichever it is."""

import heapq
import json
import os
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.common import DataOption, JsonOption, OptionalConfigOption
from deploy.cli.store import DataOptions, open_store

if TYPE_CHECKING:
    from storage.log.log import Log, LogEntry

_POLL_SECONDS = 0.3


class TailTopic(StrEnum):
    """What can be followed."""

    FINDINGS = "findings"
    INCIDENTS = "incidents"


def tail(
    topic: Annotated[TailTopic, typer.Argument(help="What to follow.")],
    config: OptionalConfigOption = None,
    data: DataOption = None,
    camera: Annotated[str, typer.Option(help="A camera, or a glob of them.")] = "*",
    from_start: Annotated[bool, typer.Option(help="Begin with the oldest that is kept.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print findings or incidents as they come, what a consumer of the log sees."""
    from storage.log.log import FINDINGS, INCIDENTS

    name = FINDINGS if topic is TailTopic.FINDINGS else INCIDENTS
    line = (
        _format_json
        if as_json
        else _format_finding
        if topic is TailTopic.FINDINGS
        else _format_incident
    )
    remaining = limit
    try:
        with open_store(DataOptions(config, data)) as store:
            for entry in _follow(store.log, name, from_start=from_start):
                if not fnmatchcase(entry.key, camera):
                    continue
                sys.stdout.write(f"{line(entry)}\n")
                sys.stdout.flush()
                remaining = remaining and remaining - 1
                if remaining == 0:
                    return
    except KeyboardInterrupt:
        return
    except BrokenPipeError:  # whoever read has enough; the interpreter would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _follow(log: "Log", topic: str, *, from_start: bool) -> "Iterator[LogEntry]":
    partitions = log.partitions(topic)
    offsets = {
        part: log.start_offset(part) if from_start else log.end_offset(part) for part in partitions
    }
    while True:
        pages = [log.read(part, offsets[part]) for part in partitions]
        offsets = {page.partition: page.next_offset for page in pages}
        # A part stays in order, also where the clock of the log stepped back.
        yield from heapq.merge(*pages, key=lambda entry: entry.at)
        if not any(pages):
            time.sleep(_POLL_SECONDS)


def _format_json(entry: "LogEntry") -> str:
    try:
        return json.dumps(json.loads(entry.value))
    except (ValueError, RecursionError):
        message = {"unreadable": entry.value.decode(errors="replace")[:200]}
        return json.dumps(message | {"part": entry.topic, "position": entry.offset})


def _format_finding(entry: "LogEntry") -> str:
    from storage.errors import Unreadable
    from storage.records.wire import decode_finding

    try:
        found = decode_finding(entry.value)
    except Unreadable as error:
        return str(error)
    return (
        f"{found.end:%Y-%m-%d %H:%M:%S}  {found.camera}  {found.question}"
        f"  {found.answer} {found.score:.2f}"
    )


def _format_incident(entry: "LogEntry") -> str:
    from storage.errors import Unreadable
    from storage.records.wire import decode_incident

    try:
        found = decode_incident(entry.value)
    except Unreadable as error:
        return str(error)
    return (
        f"{found.last_seen_at:%Y-%m-%d %H:%M:%S}  {found.camera}  {found.rule}"
        f"  {found.state}  {found.severity}  {str(found.id)[:8]} revision {found.revision}"
    )
