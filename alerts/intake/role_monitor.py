"""Health samples of roles of this machine that cannot run as configured."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from alerts.rules.health import role_from_camera, role_sample
from alerts.rules.rule import RuleSample
from storage.db.alert_store import AlertStore
from storage.db.transaction import Transaction
from storage.records.records import LIVE_STATES
from storage.role_problems import read_role_problems


class RoleMonitor:
    """Judge which roles their supervisor holds back, by its files in the data directory."""

    def __init__(
        self,
        store: AlertStore,
        data: Path,
        judge_samples: Callable[[Transaction, Sequence[RuleSample]], None],
    ) -> None:
        self._store = store
        self._data = data
        self._judge_samples = judge_samples

    def run_once(self, now: datetime) -> None:
        """Judge each role that is held back, or has a live incident about that."""
        held_back = {each.role: each.reason for each in read_role_problems(self._data)}
        live = self._store.incidents(LIVE_STATES)
        reported = {role for each in live if (role := role_from_camera(each.camera)) is not None}
        samples = [
            role_sample(role, now, is_active=role in held_back, reason=held_back.get(role, ""))
            for role in held_back.keys() | reported
        ]
        if samples:
            with self._store.transaction() as transaction:
                self._judge_samples(transaction, samples)
