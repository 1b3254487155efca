"""Health rules hear of roles that their supervisor holds back."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from storage_fixtures import START
from test_alerts_watching import UNWATCHED

from alerts.roles import RoleWatch
from alerts.worker import AlertsWorker
from storage.held_back import FOLDER, HeldBack, hold_back, release, roles_held_back
from storage.incidents import IncidentStore
from storage.memory_log import MemoryLog
from storage.records import IncidentState

MINUTE = timedelta(minutes=1)
DOWN = replace(
    UNWATCHED, name="down", question="health/role_down", cameras=("role/*",), for_=MINUTE
)


def test_an_incident_lasts_as_long_as_a_role_is_held_back(
    tmp_path: Path, store: IncidentStore
) -> None:
    worker = AlertsWorker(MemoryLog(), store, [DOWN], lambda _: None)
    watch = RoleWatch(store, tmp_path, worker.hear)
    watch.run_once(START)
    assert store.incidents() == []
    hold_back(tmp_path, HeldBack(role="camera-dock", reason="two topics", since=START))
    watch.run_once(START)
    watch.run_once(START + MINUTE)
    (incident,) = store.incidents()
    assert (incident.camera, incident.state) == ("role/camera-dock", IncidentState.OPEN)
    release(tmp_path, "camera-dock")
    watch.run_once(START + 2 * MINUTE)
    (incident,) = store.incidents()
    assert incident.state is IncidentState.RESOLVED


def test_what_cannot_be_read_of_a_role_is_left_out(tmp_path: Path) -> None:
    hold_back(tmp_path, HeldBack(role="alerts", reason="no password", since=START))
    for name, text in (("a", ""), ("b", "[]"), ("c", '{"role": "c"}')):
        (tmp_path / FOLDER / f"{name}.json").write_text(text)
    assert [each.role for each in roles_held_back(tmp_path)] == ["alerts"]
    release(tmp_path, "alerts")
    release(tmp_path, "alerts")
    assert roles_held_back(tmp_path) == []
