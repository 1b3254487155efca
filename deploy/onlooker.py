"""Tell a person what a demo sees, as it happens, and sum it up at the end."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty
from uuid import UUID

from rich.console import Console

from alerts.reading import READER as ALERTS
from deploy.data import LOG_FILE, database_url
from deploy.receiver import Receipt, Receiver
from storage.database import open_database
from storage.incidents import IncidentStore
from storage.log import FINDINGS, INCIDENTS, WINDOWS
from storage.opening import open_log
from storage.records import Answer, DeliveryState, Finding, Incident, IncidentState, Moment
from storage.routing import NoticeState
from storage.wire import decode_finding, decode_incident, decode_window

ANALYZER = "analyzer"
"""The reader of `analyzer.worker`, which loads torch when it is imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a demo has seen."""

    windows: int
    findings: int
    incidents: tuple[Incident, ...]
    delivered: int


class Onlooker:
    """Follow one camera through log, database and receiver, from now on."""

    def __init__(self, data: Path, camera: str, receiver: Receiver, console: Console) -> None:
        self._camera = camera
        self._receiver = receiver
        self._console = console
        self._log = open_log(data / LOG_FILE)
        self._store = IncidentStore(open_database(database_url(data)))
        topics = (WINDOWS, FINDINGS, INCIDENTS)
        self._parts = {topic: self._log.part_of(topic, camera) for topic in topics}
        self._next = {topic: self._log.next(self._parts[topic]) for topic in topics}
        self._windows = self._findings = 0
        self._incidents: dict[UUID, Incident] = {}
        self.began: float | None = None
        """The monotonic instant of the first still, as near as can be told."""

    def look(self) -> None:
        """Print what came since the last look."""
        for value in self._new(WINDOWS):
            self._windows += 1
            if self.began is None:
                window = decode_window(value)
                self.began = time.monotonic() - (datetime.now(UTC) - window.start).total_seconds()
        for value in self._new(FINDINGS):
            self._findings += 1
            self._tell_finding(decode_finding(value))
        for value in self._new(INCIDENTS):
            self._tell_incident(decode_incident(value))
        for receipt in self._receipts():
            self._tell_receipt(receipt)

    def is_settled(self) -> bool:
        """Tell whether all windows are answered, judged, told, and what follows delivered."""
        ends = {topic: self._log.next(part) for topic, part in self._parts.items()}
        answered = self._log.committed(ANALYZER, self._parts[WINDOWS]) >= ends[WINDOWS]
        judged = self._store.position(ALERTS, self._parts[FINDINGS]) >= ends[FINDINGS]
        looked = all(ends[topic] <= after for topic, after in self._next.items())
        told = not self._notices() and not self._deliveries(DeliveryState.WAITING)
        return answered and judged and looked and told

    def has_stills(self) -> bool:
        """Return whether of all that was opened the stills are kept, or are known to be missing."""
        opened = [each.id for each in self._incidents.values() if each.opened_at]
        return all(any(k.moment is Moment.AT for k in self._store.evidence(id)) for id in opened)

    def seen(self) -> Seen:
        """Return what was seen so far."""
        return Seen(
            windows=self._windows,
            findings=self._findings,
            incidents=tuple(each for each in self._incidents.values() if each.opened_at),
            delivered=self._deliveries(DeliveryState.DELIVERED),
        )

    def _deliveries(self, state: DeliveryState) -> int:
        deliveries = {each for id in self._incidents for each in self._store.deliveries(id)}
        return sum(delivery.state is state for delivery in deliveries)

    def _notices(self) -> int:
        """Count what somebody is still to be told."""
        notices = [each for id in self._incidents for each in self._store.notices(id)]
        return sum(notice.state is NoticeState.WAITING for notice in notices)

    def _new(self, topic: str) -> Iterator[bytes]:
        for entry in self._log.read(self._parts[topic], self._next[topic]):
            self._next[topic] = entry.position + 1
            if entry.key == self._camera:
                yield entry.value

    def _receipts(self) -> Iterator[Receipt]:
        while True:
            try:
                yield self._receiver.receipts.get_nowait()
            except Empty:
                return

    def _tell_finding(self, finding: Finding) -> None:
        colour = "yellow" if finding.answer is Answer.YES else "dim"
        where = f"{_clock(finding.end)}  {finding.camera}"
        line = f"{where}  {finding.question:<10} {finding.score:.2f}"
        self._console.print(line, style=colour)

    def _tell_incident(self, incident: Incident) -> None:
        before = self._incidents.get(incident.id)
        self._incidents[incident.id] = incident
        if before is not None and before.state is incident.state:
            return
        if incident.state is IncidentState.OPEN:
            self._shout(f"incident {incident.rule} opened on {incident.camera} ({incident.id})")
        elif incident.state is IncidentState.RESOLVED:
            self._shout(f"incident {incident.rule} closed on {incident.camera}")

    def _tell_receipt(self, receipt: Receipt) -> None:
        told = "signature verified" if receipt.verified else "REFUSED, its signature is wrong"
        self._shout(f"webhook received: {receipt.kind or 'unknown'}, {told}")

    def _shout(self, line: str) -> None:
        self._console.print(f"{_clock(datetime.now(UTC))}  {line}", style="bold")


def _clock(at: datetime) -> str:
    return at.strftime("%H:%M:%SZ")
