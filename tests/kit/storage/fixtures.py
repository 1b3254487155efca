"""Records with plain values, and a disk small enough to fill."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine

from storage.db.alert_store import AlertStore
from storage.db.audit.actions import ActionOrigin, AuditActor
from storage.db.database import open_database
from storage.records.deliveries import Delivery, DeliveryState
from storage.records.records import (
    ClockSource,
    Finding,
    Incident,
    IncidentRevision,
    IncidentState,
    Still,
    Window,
    WindowClock,
    YesNoAnswer,
)

BY_ADA = AuditActor(who="ada", origin=ActionOrigin.CLI)
START = datetime(2026, 11, 22, 8, 0, 0, 250000, tzinfo=UTC)
WINDOW_LENGTH = timedelta(seconds=16)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    opened = open_database(database)
    yield opened
    opened.dispose()


@pytest.fixture
def store(engine: Engine) -> AlertStore:
    return AlertStore(engine)


def a_window(number: int = 0, camera: str = "dock") -> Window:
    start = START + number * WINDOW_LENGTH
    stills = tuple(
        Still(at=start + timedelta(seconds=n), jpeg=b"\xff\xd8still %d" % n, width=96, height=64)
        for n in range(3)
    )
    clock = WindowClock(source=ClockSource.CAMERA_NTP, offset=-0.125)
    return Window(camera=camera, stills=stills, clock=clock, after_gap=number == 0)


def a_finding(
    number: int = 0, score: float = 0.9, camera: str = "dock", question: str = "bag"
) -> Finding:
    start = START + number * WINDOW_LENGTH
    return Finding(
        window_id=f"{camera}@{start.isoformat(timespec='milliseconds')}",
        camera=camera,
        question=question,
        question_version="q1",
        start=start,
        end=start + WINDOW_LENGTH,
        score=score,
        margin=4.0 * score - 2.0,
        answer=YesNoAnswer.YES if score >= 0.5 else YesNoAnswer.NO,
        since=start,
        model="nano:0123abcd",
        memory_span=64.0,
    )


def an_incident(revision: int = 1, state: IncidentState = IncidentState.OPEN) -> Incident:
    opened = state not in (IncidentState.PENDING, IncidentState.DISMISSED)
    closed = state in (IncidentState.RESOLVED, IncidentState.DISMISSED)
    return Incident(
        id=UUID(int=7),
        camera="dock",
        rule="bag-left",
        rule_version="r1",
        severity="high",
        state=state,
        first_seen_at=START,
        opened_at=START + WINDOW_LENGTH if opened else None,
        last_seen_at=START + 2 * WINDOW_LENGTH,
        closed_at=START + 3 * WINDOW_LENGTH if closed else None,
        evidence=(a_finding().id,),
        revision=revision,
    )


def by_rule(incident: Incident) -> IncidentRevision:
    return IncidentRevision(incident=incident, who="rule")


def a_delivery(number: int = 1, receiver: str = "soc") -> Delivery:
    return Delivery(
        id=UUID(int=100 * number + len(receiver)),
        group_id=UUID(int=9),
        number=number,
        receiver=receiver,
        state=DeliveryState.WAITING,
        attempts=0,
        next_at=START,
    )


def drop_audit_triggers(connection: Connection) -> None:
    """Take away what keeps entries of the trail and acts as they are, as an administrator may."""
    for table, name in (("audit", "audit_takes_no"), ("acts", "acts_take_no")):
        place = f" ON {table}" if connection.dialect.name == "postgresql" else ""
        for change in ("update", "delete"):
            connection.exec_driver_sql(f"DROP TRIGGER {name}_{change}{place}")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a tmpfs of this size, or skip where mounting is not permitted."""
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()) != 0:
        pytest.skip(f"mounting a tmpfs: {os.strerror(ctypes.get_errno())}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill_disk(folder: Path) -> Path:
    """Write a file until the disk is full; deleting it makes space again."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return ballast
