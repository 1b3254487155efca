"""The process of alerts: one worker judges, loops run in threads beside it, and jobs repeat."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from threading import Event

from alerts.dispatch.dispatcher import Dispatcher
from alerts.evidence.keeper import EvidenceKeeper
from alerts.evidence.retention import RetentionJob
from alerts.incidents.publisher import Publisher
from alerts.intake.outage_monitor import OutageMonitor
from alerts.intake.progress_check import ProgressCheck
from alerts.intake.role_monitor import RoleMonitor
from alerts.notify.courier import Courier
from alerts.worker import AlertsWorker
from deploy.config.data_dir import EVIDENCE_FOLDER
from deploy.config.log_access import ALERT
from deploy.runtime.alert_config import AlertRoleConfig
from deploy.runtime.housekeeping import housekeeping, skip_while_clock_unsteady
from deploy.runtime.leadership import leadership
from deploy.runtime.process import Keepalive
from deploy.runtime.wait_for import open_or_defer, open_with_retry
from storage.clock import ClockStability
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.db.leader_election import LeaderElector
from storage.log.log import Log
from storage.log.open_log import open_log

SWEEP_AFTER = timedelta(minutes=10)
"""The sweep closes an incident that is stale for longer than this."""


class AlertsProcess:
    """Run the alerts role: judge, route, deliver and clean up."""

    def __init__(self, role: AlertRoleConfig, keepalive: Keepalive) -> None:
        self._role = role
        self._keepalive = keepalive
        self._evidence: Path = role.locations.data / EVIDENCE_FOLDER

    def run(self, stop: Event) -> None:
        """Lead until `stop` is set, or stand by while another process leads."""
        keepalive, locations = self._keepalive, self._role.locations
        log = open_or_defer(lambda: open_log(locations.log, access=ALERT), keepalive)
        engine = open_with_retry(lambda: open_database(locations.database), stop, keepalive)
        elector = LeaderElector(engine, "alert", version=version("longwatch"))
        with closing(log), leadership(elector, stop, keepalive):
            self._run_as_leader(log, AlertStore(engine, elector), stop)

    def _run_as_leader(self, log: Log, store: AlertStore, stop: Event) -> None:
        publisher = Publisher(log, store)
        worker = self._build_worker(log, store, publisher)
        loops = [publisher.run, *self._loops(log, store, worker)]
        jobs = list(self._jobs(store, worker, stop))
        with housekeeping(log, self._role.log_retention, jobs=jobs):
            _run_together(worker.run, loops, stop)

    def _build_worker(self, log: Log, store: AlertStore, publisher: Publisher) -> AlertsWorker:
        return AlertsWorker(
            log,
            store,
            self._role.rules,
            self._keepalive,
            publisher=publisher,
            policy=self._role.notification_policy,
            cameras=self._role.cameras,
            sweep_after=SWEEP_AFTER,
            tolerance=self._role.clock_tolerance,
        )

    def _loops(
        self, log: Log, store: AlertStore, worker: AlertsWorker
    ) -> Iterator[Callable[[Event], None]]:
        """Yield what runs in a thread beside the worker."""
        role, availability = self._role, worker.availability
        progress_check = ProgressCheck(log, store, availability)
        yield OutageMonitor(availability, store, worker.judge_samples, worker.judge_unreported).run
        yield Dispatcher(
            store, role.notification_policy, role.heartbeat, progress_check, role.describer
        ).run
        yield Courier(store, role.receivers, worker.judge_delivery_failure).run
        yield EvidenceKeeper(log, store, self._evidence).run

    def _jobs(
        self, store: AlertStore, worker: AlertsWorker, stop: Event
    ) -> Iterator[Callable[[datetime], object]]:
        """Yield the jobs of housekeeping."""
        retention = RetentionJob(store, self._evidence, self._role.retention, stop)
        yield worker.coverage.sweep
        yield skip_while_clock_unsteady(retention.run_once, ClockStability())
        yield RoleMonitor(store, self._role.locations.data, worker.judge_samples).run_once


def _run_together(
    work: Callable[[Event], None], others: Sequence[Callable[[Event], None]], stop: Event
) -> None:
    """Run `work` here and each other in a thread until one of them ends; raise its error."""
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
