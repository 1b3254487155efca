"""Health while the log does not answer: judged from what the database holds, without the log."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from threading import Event

import structlog

from alerts.contact import LogContact, Outage
from alerts.health import reader_place, unreachable_sample
from alerts.loop import repeat
from alerts.reading import READER
from alerts.rules import Sample
from storage.incidents import IncidentStore
from storage.instants import ClockReading, Present
from storage.ledger import Ledger
from storage.records import LIVE

UNREACHABLE_AFTER = timedelta(seconds=30)
"""A log that does not answer for so long is unreachable: a broker that restarts is back by then."""
TICK = timedelta(seconds=30)
"""How often an outage, or its end, is judged at first."""
_SHARE = 20
"""Later an outage is judged once it has lasted a twentieth longer: each time is a revision."""
_POLL_SECONDS = 1.0

Hear = Callable[[Ledger, Sequence[Sample], Present], None]
HearSilence = Callable[[Ledger, datetime, Present], None]
"""`hear_silence(ledger, since, present)` judges that of no camera anything came since then."""

_say = structlog.get_logger("alerts.log_watch")


class LogWatch:
    """Judge that the log is unreachable, and that nobody watches meanwhile.

    Elapsed time is that of the monotonic clock.
    """

    def __init__(
        self, contact: LogContact, store: IncidentStore, hear: Hear, hear_silence: HearSilence
    ) -> None:
        self._contact = contact
        self._store = store
        self._hear = hear
        self._hear_silence = hear_silence
        self._judged: Outage | None = None
        self._judged_at = float("-inf")
        self._is_told = True  # a process before this one may have told

    def run(self, stop: Event) -> None:
        """Judge until stopped; waits out a blocked database."""
        repeat(self.run_once, stop, _say, seconds=_POLL_SECONDS)

    def run_once(self) -> int:
        """Judge an outage that lasts, or its end, where that is due; return whether it was."""
        outage, reading = self._contact.outage, self._contact.clock()
        if outage is not None:
            return int(self._is_due(outage, reading) and self._hear_outage(outage, reading))
        if self._is_told and self._contact.has_answered and self._is_time(reading):
            self._hear_end(reading)
            return 1
        return 0

    def _is_due(self, outage: Outage, reading: ClockReading) -> bool:
        """Return whether an outage is to be judged: less and less often the longer it lasts."""
        lasted = outage.lasted(reading)
        if self._judged is None or self._judged.since != outage.since:
            return lasted >= UNREACHABLE_AFTER
        return self._is_time(reading, lasted / _SHARE)

    def _is_time(self, reading: ClockReading, least: timedelta = timedelta()) -> bool:
        return reading.monotonic - self._judged_at >= max(TICK, least).total_seconds()

    def _hear_outage(self, outage: Outage, reading: ClockReading) -> bool:
        since, present = outage.since.wall, Present(now=outage.now(reading))
        with self._store.transaction() as ledger:
            samples = [
                unreachable_sample(READER, at, holds=True, reason=outage.reason)
                for at in (since, present.now)
            ]
            self._hear(ledger, samples, present)
            self._hear_silence(ledger, since, present)
        self._judged, self._judged_at, self._is_told = outage, reading.monotonic, True
        return True

    def _hear_end(self, reading: ClockReading) -> None:
        """Judge that the log answers, and look whether an incident still says otherwise."""
        now = reading.wall if self._judged is None else self._judged.now(reading)
        with self._store.transaction() as ledger:
            sample = unreachable_sample(READER, now, holds=False)
            self._hear(ledger, [sample], Present(now=now))
        self._judged_at = reading.monotonic
        live = self._store.incidents(LIVE)
        self._is_told = any(each.camera == reader_place(READER) for each in live)
