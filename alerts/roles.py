"""Roles of this machine that cannot run as they are configured, as samples for health rules."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from alerts.health import role_of, role_sample
from alerts.rules import Sample
from storage.held_back import roles_held_back
from storage.incidents import IncidentStore
from storage.ledger import Ledger
from storage.records import LIVE


class RoleWatch:
    """Judge which roles are held back, by what the supervisors write in the data directory."""

    def __init__(
        self, store: IncidentStore, data: Path, hear: Callable[[Ledger, Sequence[Sample]], None]
    ) -> None:
        self._store = store
        self._data = data
        self._hear = hear

    def run_once(self, now: datetime) -> None:
        """Judge each role that is held back, and each that an incident still says is."""
        held = {each.role: each.reason for each in roles_held_back(self._data)}
        said = {role_of(each.camera) for each in self._store.incidents(LIVE)} - {None}
        samples = [
            role_sample(str(each), now, holds=each in held, reason=held.get(str(each), ""))
            for each in held.keys() | said
        ]
        if samples:
            with self._store.transaction() as ledger:
                self._hear(ledger, samples)
