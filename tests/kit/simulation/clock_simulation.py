"""A site in virtual time whose writers and whose reader have clocks that jump.

The true time drives all. Every window each camera's process, the analyzer and the log stamp by the
writers' clock; alerts, the router and the courier live by the reader's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine

from alerts.dispatch.dispatcher import Dispatcher
from alerts.dispatch.grouping import NotificationPolicy, RoutePolicy
from alerts.rules.rule import Rule
from alerts.worker import AlertsWorker
from kit.storage.fixtures import a_finding
from storage.clock import ClockReading
from storage.db.alert_store import AlertStore
from storage.db.rows.coverage import CoverageStore
from storage.log.memory_log import MemoryLog
from storage.records.claims import Claim, encode_claim
from storage.records.deliveries import DeliveryState
from storage.records.records import CoverageInterval, CoverageState, Incident, TimeSpan
from storage.records.topics import COVERAGE, FINDINGS
from storage.records.wire import encode_finding

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
ROUTING = NotificationPolicy(
    default=RoutePolicy(
        group_by=("severity",),
        group_wait=timedelta(seconds=30),
        group_interval=timedelta(minutes=1),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockJump:
    """From a window on a clock is wrong: the writers', the reader's, both, or that of a camera."""

    window: int
    whose: str
    offset: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedAlerts:
    """What people saw since an instant, in the writers' time."""

    incidents: frozenset[tuple[str, str, datetime | None, datetime | None]]
    messages: frozenset[tuple[str, str, datetime | None, str]]
    coverage: tuple[tuple[str, float, float, str], ...]


@dataclass
class ClockSimulation:
    """`live` lets windows pass; what a camera shows depends on the window alone."""

    engine: Engine
    cameras: Sequence[str] = ("dock", "gate", "yard")
    jumps: Sequence[ClockJump] = ()
    window: int = 0
    writer_offset: timedelta = NOTHING
    reader_offset: timedelta = NOTHING
    camera_offsets: dict[str, timedelta] = field(default_factory=dict)
    messages: list[tuple[int, dict[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log = MemoryLog(now=lambda: self.true_time + self.writer_offset)
        self.store = AlertStore(self.engine)
        self.restart()

    @property
    def true_time(self) -> datetime:
        """The true time: windows end a little apart, so that no two have one name."""
        return START + self.window * (WINDOW + timedelta(milliseconds=1))

    def restart(self) -> None:
        self.alerts = AlertsWorker(
            self.log,
            self.store,
            RULES,
            lambda _: None,
            policy=ROUTING,
            cameras=self.cameras,
            sweep_after=timedelta(minutes=10),
            clock=self.clock,
        )
        self.dispatcher = Dispatcher(self.store, ROUTING)

    def clock(self) -> ClockReading:
        return ClockReading(
            wall=self.true_time + self.reader_offset,
            monotonic=(self.true_time - START).total_seconds(),
        )

    def run_windows(self, windows: int, read_every: int = 1) -> None:
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
                self.writer_offset = jump.offset
            if jump.whose in ("reader", "both"):
                self.reader_offset = jump.offset
            if jump.whose in self.cameras:
                self.camera_offsets[jump.whose] = jump.offset

    def _write(self, camera: str) -> None:
        end = self.true_time + self.writer_offset + self.camera_offsets.get(camera, NOTHING)
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
        now = self.true_time + self.reader_offset
        self.dispatcher.run_once(now)
        while (delivery := self.store.next_delivery("soc", now)) is not None:
            for each in json.loads(self.store.delivery_body(delivery) or b"")["data"]["incidents"]:
                self.messages.append((self.window, each))
            self.store.record_outcome(replace(delivery, state=DeliveryState.DELIVERED, attempts=1))

    def start_observing(self) -> None:
        """Forget what people have seen up to now."""
        self.began = self.true_time + self.writer_offset
        self.known_ids = {each.id for each in self.store.incidents() if each.opened_at is not None}

    def observed_alerts(self) -> ObservedAlerts:
        """Return what opened since the beginning, as the writers date it."""
        began = self.began
        incidents = [
            each
            for each in self.store.incidents()
            if each.opened_at is not None and each.id not in self.known_ids
        ]
        known = {str(each.id): each for each in incidents}
        states = [
            (known[each["id"]], each["state"]) for _, each in self.messages if each["id"] in known
        ]
        return ObservedAlerts(
            incidents=frozenset((each.camera, each.rule, *self._times(each)) for each in incidents),
            messages=frozenset(
                (each.camera, each.rule, self._times(each)[0], state) for each, state in states
            ),
            coverage=tuple(self._coverage(began)),
        )

    def _times(self, incident: Incident) -> tuple[datetime | None, datetime | None]:
        opened, closed = incident.opened_at, incident.closed_at
        return opened and opened - self.writer_offset, closed and closed - self.writer_offset

    def _coverage(self, began: datetime) -> list[tuple[str, float, float, str]]:
        span = TimeSpan(start=began, end=datetime(9999, 1, 1, tzinfo=UTC))
        store = CoverageStore(self.engine)
        return [
            (row.camera, self._since(row.start, began), self._since(row.end, began), row.state)
            for camera in self.cameras
            for row in store.between(camera, span)
        ]

    def _since(self, at: datetime, began: datetime) -> float:
        return max(0.0, round((at - began).total_seconds(), 3))


def coverage_of(world: ClockSimulation, camera: str) -> list[CoverageInterval]:
    """Return the ledger of a camera."""
    span = TimeSpan(start=datetime(1970, 1, 1, tzinfo=UTC), end=datetime(9999, 1, 1, tzinfo=UTC))
    return CoverageStore(world.engine).between(camera, span)
