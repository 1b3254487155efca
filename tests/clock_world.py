"""A site in virtual time whose writers and whose reader have clocks that jump.

The true time drives all. Every window each camera's process, the analyzer and the log stamp by the
writers' clock; alerts, the router and the courier live by the reader's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine
from storage_fixtures import a_finding

from alerts.router import Router
from alerts.routing import Route, Routing
from alerts.rules import Rule
from alerts.worker import AlertsWorker
from storage.claims import Claim, encode_claim
from storage.coverage import CoverageStore
from storage.incidents import IncidentStore
from storage.instants import ClockReading
from storage.log import COVERAGE, FINDINGS
from storage.memory_log import MemoryLog
from storage.records import Coverage, CoverageState, DeliveryState, Incident, Span
from storage.wire import encode_finding

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
WINDOW = timedelta(minutes=1)
HOUR = timedelta(hours=1)
NOTHING = timedelta()
NO_SILENCE = timedelta(days=36500)
RULES = (
    Rule(name="bag-left", question="bag", above=0.8, below=0.5, notify=("soc",)),
    Rule(
        name="crowd",
        question="crowd",
        above=0.8,
        below=0.5,
        for_=timedelta(minutes=2),
        quiet=timedelta(minutes=1),
        notify=("soc",),
    ),
    Rule(
        name="camera-down",
        question="health/camera_down",
        above=0.5,
        below=0.5,
        stale_after=NO_SILENCE,
        notify=("soc",),
    ),
)
ROUTING = Routing(
    default=Route(
        group_by=("severity",),
        group_wait=timedelta(seconds=30),
        group_interval=timedelta(minutes=1),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Jump:
    """From a window on a clock is wrong: the writers', the reader's, both, or that of a camera."""

    window: int
    whose: str
    offset: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What people saw since an instant, in the writers' time."""

    incidents: frozenset[tuple[str, str, datetime | None, datetime | None]]
    messages: frozenset[tuple[str, str, datetime | None, str]]
    coverage: tuple[tuple[str, float, float, str], ...]


@dataclass
class ClockWorld:
    """`live` lets windows pass; what a camera shows depends on the window alone."""

    engine: Engine
    cameras: Sequence[str] = ("dock", "gate", "yard")
    jumps: Sequence[Jump] = ()
    window: int = 0
    writer: timedelta = NOTHING
    reader: timedelta = NOTHING
    camera: dict[str, timedelta] = field(default_factory=dict)
    told: list[tuple[int, dict[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log = MemoryLog(now=lambda: self.true + self.writer)
        self.store = IncidentStore(self.engine)
        self.restart()

    @property
    def true(self) -> datetime:
        """The true time: windows end a little apart, so that no two have one name."""
        return START + self.window * (WINDOW + timedelta(milliseconds=1))

    def restart(self) -> None:
        self.alerts = AlertsWorker(
            self.log,
            self.store,
            RULES,
            lambda _: None,
            routing=ROUTING,
            cameras=self.cameras,
            sweep_after=timedelta(minutes=10),
            clock=self.clock,
        )
        self.router = Router(self.store, ROUTING)

    def clock(self) -> ClockReading:
        return ClockReading(
            wall=self.true + self.reader, monotonic=(self.true - START).total_seconds()
        )

    def live(self, windows: int, read_every: int = 1) -> None:
        for number in range(windows):
            self.window += 1
            self._jump()
            for camera in self.cameras:
                self._write(camera)
            if number % read_every == 0:
                self._read()

    def _jump(self) -> None:
        for jump in self.jumps:
            if jump.window != self.window:
                continue
            if jump.whose in ("writer", "both"):
                self.writer = jump.offset
            if jump.whose in ("reader", "both"):
                self.reader = jump.offset
            if jump.whose in self.cameras:
                self.camera[jump.whose] = jump.offset

    def _write(self, camera: str) -> None:
        end = self.true + self.writer + self.camera.get(camera, NOTHING)
        start = end - WINDOW - timedelta(milliseconds=1)
        shows = (self.window + 2 * self.cameras.index(camera)) % 12
        if shows < 2:
            self._claim(camera, start, end, CoverageState.CAMERA_DOWN)
            return
        self._claim(camera, start, end, CoverageState.WAITING)
        for question, over in (("bag", 4 <= shows < 6), ("crowd", 7 <= shows < 11)):
            finding = replace(
                a_finding(0, 0.9 if over else 0.1, camera, question),
                window_id=f"{camera}@{start.isoformat(timespec='milliseconds')}",
                start=start,
                end=end,
                since=start,
            )
            self.log.append(FINDINGS, camera, encode_finding(finding))
        self._claim(camera, start, end, CoverageState.ANALYSED)

    def _claim(self, camera: str, start: datetime, end: datetime, state: CoverageState) -> None:
        claim = Claim(camera=camera, start=start, end=end, state=state)
        self.log.append(COVERAGE, camera, encode_claim(claim))

    def _read(self) -> None:
        while self.alerts.step():
            pass
        now = self.true + self.reader
        self.router.run_once(now)
        while (delivery := self.store.next_delivery("soc", now)) is not None:
            for each in json.loads(self.store.body(delivery))["data"]["incidents"]:
                self.told.append((self.window, each))
            self.store.mark(replace(delivery, state=DeliveryState.DELIVERED, attempts=1))

    def begin(self) -> None:
        """Forget what people have seen up to now."""
        self.began = self.true + self.writer
        self.old = {each.id for each in self.store.incidents() if each.opened_at is not None}

    def seen(self) -> Seen:
        """Return what opened since the beginning, as the writers date it."""
        began = self.began
        incidents = [
            each
            for each in self.store.incidents()
            if each.opened_at is not None and each.id not in self.old
        ]
        known = {str(each.id): each for each in incidents}
        told = [(known[each["id"]], each["state"]) for _, each in self.told if each["id"] in known]
        return Seen(
            incidents=frozenset((each.camera, each.rule, *self._times(each)) for each in incidents),
            messages=frozenset(
                (each.camera, each.rule, self._times(each)[0], state) for each, state in told
            ),
            coverage=tuple(self._coverage(began)),
        )

    def _times(self, incident: Incident) -> tuple[datetime | None, datetime | None]:
        opened, closed = incident.opened_at, incident.closed_at
        return opened and opened - self.writer, closed and closed - self.writer

    def _coverage(self, began: datetime) -> list[tuple[str, float, float, str]]:
        span = Span(start=began, end=datetime(9999, 1, 1, tzinfo=UTC))
        store = CoverageStore(self.engine)
        return [
            (row.camera, self._since(row.start, began), self._since(row.end, began), row.state)
            for camera in self.cameras
            for row in store.between(camera, span)
        ]

    def _since(self, at: datetime, began: datetime) -> float:
        return max(0.0, round((at - began).total_seconds(), 3))


def rows_of(world: ClockWorld, camera: str) -> list[Coverage]:
    """Return the ledger of a camera."""
    span = Span(start=datetime(1970, 1, 1, tzinfo=UTC), end=datetime(9999, 1, 1, tzinfo=UTC))
    return CoverageStore(world.engine).between(camera, span)
