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

from alerts.dispatch.describer import Describer
from alerts.dispatch.dispatcher import Dispatcher
from alerts.dispatch.grouping import NotificationPolicy
from alerts.dispatch.heartbeat import Heartbeat
from alerts.evidence.keeper import EvidenceKeeper
from alerts.evidence.retention import RetentionJob, RetentionPeriods
from alerts.incidents.publisher import Publisher
from alerts.intake.outage_monitor import OutageMonitor
from alerts.intake.progress_check import ProgressCheck
from alerts.intake.role_monitor import RoleMonitor
from alerts.notify.courier import Courier
from alerts.notify.receivers import Receiver
from alerts.rules.rule import Rule
from alerts.worker import AlertsWorker
from deploy.config.data_dir import EVIDENCE_FOLDER, StorageLocations
from deploy.config.log_access import ALERT
from deploy.runtime.housekeeping import housekeeping, skip_while_clock_unsteady
from deploy.runtime.leadership import leadership
from deploy.runtime.wait_for import open_or_defer, open_with_retry
from storage.clock import ClockStability
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.db.leader_election import LeaderElector
from storage.log.log import Log
from storage.log.open_log import open_log
from storage.log.retention import TopicRetention as LogRetention

SWEEP_AFTER = timedelta(minutes=10)
"""An incident of which nothing was heard for so much longer than it may is closed by the clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertsProcess:
    """How findings are judged, and who is told; all that the settings say of it."""

    rules: Sequence[Rule]
    receivers: Sequence[Receiver]
    notification_policy: NotificationPolicy
    heartbeat: Heartbeat | None
    describer: Describer
    cameras: Collection[str]
    retention: RetentionPeriods
    log_retention: Sequence[LogRetention]
    clock_tolerance: timedelta
    locations: StorageLocations

    def run(self, stop: Event, keepalive: Callable[[float], None]) -> None:
        """Judge, route, deliver and clean up until `stop` is set; raise what ends a loop.

        One process on a database does so at a time; another one stands by.
        """
        log = open_or_defer(lambda: open_log(self.locations.log, access=ALERT), keepalive)
        engine = open_with_retry(lambda: open_database(self.locations.database), stop, keepalive)
        elector = LeaderElector(engine, "alert", version=version("longwatch"))
        with closing(log), leadership(elector, stop, keepalive):
            self._run_as_leader(log, AlertStore(engine, elector), stop, keepalive)

    def _run_as_leader(
        self, log: Log, store: AlertStore, stop: Event, keepalive: Callable[[float], None]
    ) -> None:
        publisher = Publisher(log, store)
        worker = self._worker(log, store, publisher, keepalive)
        loops = [publisher.run, *self._loops(log, store, worker)]
        jobs = self._jobs(store, worker, stop)
        with housekeeping(log, self.log_retention, jobs=list(jobs)):
            _run_together(worker.run, loops, stop)

    def _worker(
        self,
        log: Log,
        store: AlertStore,
        publisher: Publisher,
        keepalive: Callable[[float], None],
    ) -> AlertsWorker:
        return AlertsWorker(
            log,
            store,
            self.rules,
            keepalive,
            publisher=publisher,
            policy=self.notification_policy,
            cameras=self.cameras,
            sweep_after=SWEEP_AFTER,
            tolerance=self.clock_tolerance,
        )

    def _loops(
        self, log: Log, store: AlertStore, worker: AlertsWorker
    ) -> Iterator[Callable[[Event], None]]:
        """Yield what runs in a thread beside the worker."""
        progress_check = ProgressCheck(log, store, worker.availability)
        yield OutageMonitor(
            worker.availability, store, worker.judge_samples, worker.judge_unreported
        ).run
        yield Dispatcher(
            store, self.notification_policy, self.heartbeat, progress_check, self.describer
        ).run
        yield Courier(store, self.receivers, worker.judge_delivery_failure).run
        yield EvidenceKeeper(log, store, self._evidence).run

    def _jobs(
        self, store: AlertStore, worker: AlertsWorker, stop: Event
    ) -> Iterator[Callable[[datetime], object]]:
        """Yield what runs from time to time."""
        retention = RetentionJob(store, self._evidence, self.retention, stop)
        yield worker.coverage.sweep
        yield skip_while_clock_unsteady(retention.run_once, ClockStability())
        yield RoleMonitor(store, self.locations.data, worker.judge_samples).run_once

    @property
    def _evidence(self) -> Path:
        return self.locations.data / EVIDENCE_FOLDER


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
