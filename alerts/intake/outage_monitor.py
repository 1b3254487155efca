"""Health while the log does not answer, judged from the database alone."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from threading import Event

import structlog

from alerts.intake.cursor import READER
from alerts.intake.log_availability import LogAvailability, Outage
from alerts.rules.health import reader_camera, unreachable_sample
from alerts.rules.rule import RuleSample
from storage.clock import ClockReading, CurrentTime
from storage.db.alert_store import AlertStore
from storage.db.transaction import Transaction
from storage.loop import repeat
from storage.records.records import LIVE_STATES

UNREACHABLE_AFTER = timedelta(seconds=30)
"""A log that does not answer for this long is unreachable; a broker restarts faster."""
TICK = timedelta(seconds=30)
"""The shortest time between two judgements of an outage, or of its end."""
_SHARE_OF_OUTAGE = 20
"""A long outage is judged each time it has lasted a twentieth longer: each is a revision."""

JudgeSamples = Callable[[Transaction, Sequence[RuleSample], CurrentTime], None]
JudgeUnreported = Callable[[Transaction, datetime, CurrentTime], None]
"""`judge_unreported(transaction, since, present)` judges that no camera was reported since."""

logger = structlog.get_logger()


class OutageMonitor:
    """Judge that the log is unreachable, and that nobody watches meanwhile.

    Elapsed time is monotonic.
    """

    def __init__(
        self,
        availability: LogAvailability,
        store: AlertStore,
        judge_samples: JudgeSamples,
        judge_unreported: JudgeUnreported,
    ) -> None:
        self._availability = availability
        self._store = store
        self._judge_samples = judge_samples
        self._judge_unreported = judge_unreported
        self._judged_outage: Outage | None = None
        self._judged_at = float("-inf")
        self._is_reported = True  # an earlier process may have reported one

    def run(self, stop: Event) -> None:
        """Judge until stopped; waits out a blocked database."""
        repeat(self.run_once, stop, logger)

    def run_once(self) -> int:
        """Judge an outage, or its end, if that is due; return 1 if it was."""
        outage, reading = self._availability.outage, self._availability.clock()
        if outage is not None:
            return int(self._is_due(outage, reading) and self._judge_outage(outage, reading))
        if self._is_reported and self._availability.has_answered and self._is_tick_due(reading):
            self._judge_recovery(reading)
            return 1
        return 0

    def _is_due(self, outage: Outage, reading: ClockReading) -> bool:
        """Return whether to judge an outage: less often the longer it lasts."""
        lasted = outage.duration(reading)
        if self._judged_outage is None or self._judged_outage.since != outage.since:
            return lasted >= UNREACHABLE_AFTER
        return self._is_tick_due(reading, lasted / _SHARE_OF_OUTAGE)

    def _is_tick_due(self, reading: ClockReading, at_least: timedelta = timedelta()) -> bool:
        return reading.monotonic - self._judged_at >= max(TICK, at_least).total_seconds()

    def _judge_outage(self, outage: Outage, reading: ClockReading) -> bool:
        since, present = outage.since.wall, CurrentTime(now=outage.now(reading))
        with self._store.transaction() as transaction:
            samples = [
                unreachable_sample(READER, at, is_active=True, reason=outage.reason)
                for at in (since, present.now)
            ]
            self._judge_samples(transaction, samples, present)
            self._judge_unreported(transaction, since, present)
        self._judged_outage, self._judged_at, self._is_reported = outage, reading.monotonic, True
        return True

    def _judge_recovery(self, reading: ClockReading) -> None:
        """Judge that the log answers, and check whether an incident about it is still live."""
        now = reading.wall if self._judged_outage is None else self._judged_outage.now(reading)
        with self._store.transaction() as transaction:
            sample = unreachable_sample(READER, now, is_active=False)
            self._judge_samples(transaction, [sample], CurrentTime(now=now))
        self._judged_at = reading.monotonic
        live = self._store.incidents(LIVE_STATES)
        self._is_reported = any(each.camera == reader_camera(READER) for each in live)
