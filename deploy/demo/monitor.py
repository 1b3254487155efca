"""Print what a demo sees as it happens, and sum it up at the end."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty
from typing import Any
from uuid import UUID

from rich.console import Console

from alerts.intake.cursor import READER as ALERTS
from deploy.config.data_dir import LOG_FILE, database_url
from deploy.demo.webhook_server import WebhookReceipt, WebhookServer
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.log.open_log import open_log
from storage.records.deliveries import DeliveryState
from storage.records.notifications import NotificationState
from storage.records.records import EvidenceMoment, Finding, Incident, IncidentState, YesNoAnswer
from storage.records.topics import FINDINGS, INCIDENTS, WINDOWS
from storage.records.wire import decode_finding, decode_incident, decode_window

ANALYZER_GROUP = "analyzer"
"""The reader of `analyzer.worker`, which loads torch when it is imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSummary:
    """The counts and incidents of a demo."""

    windows: int
    findings: int
    incidents: tuple[Incident, ...]
    delivered: int


class DemoMonitor:
    """Follows one camera through log, database and receiver, from its creation on."""

    def __init__(
        self, data: Path, camera: str, webhook_server: WebhookServer, console: Console
    ) -> None:
        self._camera = camera
        self._webhook_server = webhook_server
        self._console = console
        self._log = open_log(data / LOG_FILE)
        self._store = AlertStore(open_database(database_url(data)))
        topics = (WINDOWS, FINDINGS, INCIDENTS)
        self._partitions = {topic: self._log.partition_for(topic, camera) for topic in topics}
        self._offsets = {topic: self._log.end_offset(self._partitions[topic]) for topic in topics}
        self._window_count = self._finding_count = 0
        self._incidents: dict[UUID, Incident] = {}
        self.started_at: float | None = None
        """The monotonic instant of the first still, estimated from its wall-clock time."""

    def poll(self) -> None:
        """Print everything new since the last poll."""
        for value in self._new_values(WINDOWS):
            self._window_count += 1
            if self.started_at is None:
                window = decode_window(value)
                self.started_at = (
                    time.monotonic() - (datetime.now(UTC) - window.start).total_seconds()
                )
        for value in self._new_values(FINDINGS):
            self._finding_count += 1
            self._print_finding(decode_finding(value))
        for value in self._new_values(INCIDENTS):
            self._print_incident(decode_incident(value))
        for receipt in self._new_receipts():
            self._print_receipt(receipt)

    def is_settled(self) -> bool:
        """Return whether all windows are answered, judged and printed, all deliveries done."""
        end_offsets = {
            topic: self._log.end_offset(part) for topic, part in self._partitions.items()
        }
        is_answered = (
            self._log.committed(ANALYZER_GROUP, self._partitions[WINDOWS]) >= end_offsets[WINDOWS]
        )
        is_judged = (
            self._store.committed_offset(ALERTS, self._partitions[FINDINGS])
            >= end_offsets[FINDINGS]
        )
        is_printed = all(end_offsets[topic] <= after for topic, after in self._offsets.items())
        is_notified = not self._count_pending_notifications() and not self._count_deliveries(
            DeliveryState.WAITING
        )
        return is_answered and is_judged and is_printed and is_notified

    def has_stills(self) -> bool:
        """Return whether the stills of each opened incident are stored or recorded as missing."""
        opened = [each.id for each in self._incidents.values() if each.opened_at]
        return all(
            any(k.moment is EvidenceMoment.AT for k in self._store.evidence(id)) for id in opened
        )

    def summary(self) -> DemoSummary:
        """Return the counts and incidents so far."""
        return DemoSummary(
            windows=self._window_count,
            findings=self._finding_count,
            incidents=tuple(each for each in self._incidents.values() if each.opened_at),
            delivered=self._count_deliveries(DeliveryState.DELIVERED),
        )

    def _count_deliveries(self, state: DeliveryState) -> int:
        deliveries = {each for id in self._incidents for each in self._store.deliveries(id)}
        return sum(delivery.state is state for delivery in deliveries)

    def _count_pending_notifications(self) -> int:
        """Count the notifications that are not sent yet."""
        notifications = [each for id in self._incidents for each in self._store.notifications(id)]
        return sum(notice.state is NotificationState.WAITING for notice in notifications)

    def _new_values(self, topic: str) -> Iterator[bytes]:
        for entry in self._log.read(self._partitions[topic], self._offsets[topic]):
            self._offsets[topic] = entry.offset + 1
            if entry.key == self._camera:
                yield entry.value

    def _new_receipts(self) -> Iterator[WebhookReceipt]:
        while True:
            try:
                yield self._webhook_server.receipts.get_nowait()
            except Empty:
                return

    def _print_finding(self, finding: Finding) -> None:
        colour = "yellow" if finding.answer is YesNoAnswer.YES else "dim"
        where = f"{_format_clock(finding.end)}  {finding.camera}"
        line = f"{where}  {finding.question:<10} {finding.score:.2f}"
        self._console.print(line, style=colour)

    def _print_incident(self, incident: Incident) -> None:
        before = self._incidents.get(incident.id)
        self._incidents[incident.id] = incident
        if before is not None and before.state is incident.state:
            return
        if incident.state is IncidentState.OPEN:
            self._print_event(
                f"incident {incident.rule} opened on {incident.camera} ({incident.id})"
            )
        elif incident.state is IncidentState.RESOLVED:
            self._print_event(f"incident {incident.rule} closed on {incident.camera}")

    def _print_receipt(self, receipt: WebhookReceipt) -> None:
        message = "signature verified" if receipt.is_verified else "REFUSED, its signature is wrong"
        self._print_event(f"webhook received: {receipt.kind or 'unknown'}, {message}")

    def _print_event(self, line: str) -> None:
        self._console.print(f"{_format_clock(datetime.now(UTC))}  {line}", style="bold")


def _format_clock(at: datetime) -> str:
    return at.strftime("%H:%M:%SZ")


def demo_fields(summary: DemoSummary) -> dict[str, Any]:
    """Return the last line of a demo."""
    opened = [(each.rule, each.opened_at) for each in summary.incidents]
    return {
        "windows": summary.windows,
        "findings": summary.findings,
        "incidents": [{"rule": rule, "opened_at": at and at.isoformat()} for rule, at in opened],
        "deliveries": {"delivered": summary.delivered},
    }
