"""`longwatch tail`: follow findings or incidents on the log."""

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
    """A topic to follow."""

    FINDINGS = "findings"
    INCIDENTS = "incidents"


def tail(
    topic: Annotated[TailTopic, typer.Argument(help="The topic to follow.")],
    config: OptionalConfigOption = None,
    data: DataOption = None,
    camera: Annotated[str, typer.Option(help="The name of a camera, or a glob.")] = "*",
    from_start: Annotated[bool, typer.Option(help="Begin with the oldest entry.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Exit after this many entries.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print findings or incidents as they arrive on the log."""
    from storage.records.topics import FINDINGS, INCIDENTS

    name = FINDINGS if topic is TailTopic.FINDINGS else INCIDENTS
    format_entry = _format_finding if topic is TailTopic.FINDINGS else _format_incident
    if as_json:
        format_entry = _format_json
    remaining = limit
    try:
        with open_store(DataOptions(config, data)) as store:
            for entry in _follow(store.log, name, from_start=from_start):
                if not fnmatchcase(entry.key, camera):
                    continue
                sys.stdout.write(f"{format_entry(entry)}\n")
                sys.stdout.flush()
                remaining = remaining and remaining - 1
                if remaining == 0:
                    return
    except KeyboardInterrupt:
        return
    except BrokenPipeError:  # the reader has gone; flushing at exit would fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _follow(log: "Log", topic: str, *, from_start: bool) -> "Iterator[LogEntry]":
    partitions = log.partitions(topic)
    offsets = {
        part: log.start_offset(part) if from_start else log.end_offset(part) for part in partitions
    }
    while True:
        pages = [log.read(part, offsets[part]) for part in partitions]
        offsets = {page.partition: page.next_offset for page in pages}
        # A partition stays in order, even if the clock of the log stepped back.
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
