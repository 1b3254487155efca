"""What the process of alerts does: one reader that judges, loops beside it, and jobs.

`daemon.alert` imports this when it runs: other processes do without what it imports.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from threading import Event

from alerts.courier import Courier
from alerts.evidence import EvidenceKeeper
from alerts.heartbeat import Heartbeat
from alerts.log_watch import LogWatch
from alerts.publisher import Publisher
from alerts.pulse import Pulse
from alerts.receivers import Receiver
from alerts.retention import KeepFor, Retention
from alerts.roles import RoleWatch
from alerts.router import Router
from alerts.routing import Routing
from alerts.rules import Rule
from alerts.tickets import Describer
from alerts.worker import AlertsWorker
from deploy.data import EVIDENCE_FOLDER, Places
from deploy.housekeeping import by_age, housekeeping
from deploy.leading import leading
from deploy.needs import ALERT
from deploy.opening import opened_or_later, when_it_answers
from storage.database import open_database
from storage.incidents import IncidentStore
from storage.instants import Steady
from storage.leases import LeaderElector
from storage.log import Log
from storage.opening import open_log
from storage.retention import Retention as LogRetention

SWEPT_AFTER = timedelta(minutes=10)
"""An incident of which nothing was heard for so much longer than it may is closed by the clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alerting:
    """How findings are judged, and who is told; all that the settings say of it."""

    rules: Sequence[Rule]
    receivers: Sequence[Receiver]
    routing: Routing
    heartbeat: Heartbeat | None
    describer: Describer
    cameras: Collection[str]
    keep: KeepFor
    keep_log: Sequence[LogRetention]
    clock_tolerance: timedelta
    places: Places

    def run(self, stop: Event, promise: Callable[[float], None]) -> None:
        """Judge, route, deliver and clean up until `stop` is set; raise what ends a loop.

        One process on a database does so at a time; another one stands by.
        """
        log = opened_or_later(lambda: open_log(self.places.log, needs=ALERT), promise)
        engine = when_it_answers(lambda: open_database(self.places.database), stop, promise)
        elector = LeaderElector(engine, "alert", version=version("longwatch"))
        with closing(log), leading(elector, stop, promise):
            self._lead(log, IncidentStore(engine, elector), stop, promise)

    def _lead(
        self, log: Log, store: IncidentStore, stop: Event, promise: Callable[[float], None]
    ) -> None:
        publisher = Publisher(log, store)
        worker = self._worker(log, store, publisher, promise)
        loops = [publisher.run, *self._loops(log, store, worker)]
        jobs = self._jobs(store, worker, stop)
        with housekeeping(log, self.keep_log, jobs=list(jobs)):
            _run_together(worker.run, loops, stop)

    def _worker(
        self,
        log: Log,
        store: IncidentStore,
        publisher: Publisher,
        promise: Callable[[float], None],
    ) -> AlertsWorker:
        return AlertsWorker(
            log,
            store,
            self.rules,
            promise,
            publisher=publisher,
            routing=self.routing,
            cameras=self.cameras,
            sweep_after=SWEPT_AFTER,
            tolerance=self.clock_tolerance,
        )

    def _loops(
        self, log: Log, store: IncidentStore, worker: AlertsWorker
    ) -> Iterator[Callable[[Event], None]]:
        """Yield what runs in a thread beside the worker."""
        pulse = Pulse(log, store, worker.contact)
        yield LogWatch(worker.contact, store, worker.hear, worker.hear_silence).run
        yield Router(store, self.routing, self.heartbeat, pulse, self.describer).run
        yield Courier(store, self.receivers, worker.hear_trouble).run
        yield EvidenceKeeper(log, store, self._evidence).run

    def _jobs(
        self, store: IncidentStore, worker: AlertsWorker, stop: Event
    ) -> Iterator[Callable[[datetime], object]]:
        """Yield what runs from time to time."""
        retention = Retention(store, self._evidence, self.keep, stop)
        yield worker.coverage.sweep
        yield by_age(retention.run_once, Steady())
        yield RoleWatch(store, self.places.data, worker.hear).run_once

    @property
    def _evidence(self) -> Path:
        return self.places.data / EVIDENCE_FOLDER


def _run_together(
    work: Callable[[Event], None], others: Sequence[Callable[[Event], None]], stop: Event
) -> None:
    """Run here and in a thread for each of the others, until one of them ends; raise its error."""
    with ThreadPoolExecutor(len(others), "alerts") as pool:
        running = [pool.submit(each, stop) for each in others]
        for each in running:
            each.add_done_callback(lambda _: stop.set())
        try:
            work(stop)
        finally:
            stop.set()
    for each in running:
        each.result()
