"""Health rules hear of roles that their supervisor holds back."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from alerts.intake.role_monitor import RoleMonitor
from alerts.worker import AlertsWorker
from kit.storage.fixtures import START
from storage.db.alert_store import AlertStore
from storage.log.memory_log import MemoryLog
from storage.records.records import IncidentState
from storage.role_problems import (
    FOLDER,
    RoleProblem,
    clear_role_problem,
    read_role_problems,
    write_role_problem,
)
from test_alerts_coverage_rules import UNWATCHED

MINUTE = timedelta(minutes=1)
DOWN = replace(
    UNWATCHED, name="down", question="health/role_down", cameras=("role/*",), for_=MINUTE
)


def test_an_incident_lasts_as_long_as_a_role_is_held_back(
    tmp_path: Path, store: AlertStore
) -> None:
    worker = AlertsWorker(MemoryLog(), store, [DOWN], lambda _: None)
    watch = RoleMonitor(store, tmp_path, worker.judge_samples)
    watch.run_once(START)
    assert store.incidents() == []
    write_role_problem(tmp_path, RoleProblem(role="camera-dock", reason="two topics", since=START))
    watch.run_once(START)
    watch.run_once(START + MINUTE)
    (incident,) = store.incidents()
    assert (incident.camera, incident.state) == ("role/camera-dock", IncidentState.OPEN)
    clear_role_problem(tmp_path, "camera-dock")
    watch.run_once(START + 2 * MINUTE)
    (incident,) = store.incidents()
    assert incident.state is IncidentState.RESOLVED


def test_what_cannot_be_read_of_a_role_is_left_out(tmp_path: Path) -> None:
    write_role_problem(tmp_path, RoleProblem(role="alerts", reason="no password", since=START))
    for name, text in (("a", ""), ("b", "[]"), ("c", '{"role": "c"}')):
        (tmp_path / FOLDER / f"{name}.json").write_text(text)
    assert [each.role for each in read_role_problems(tmp_path)] == ["alerts"]
    clear_role_problem(tmp_path, "alerts")
    clear_role_problem(tmp_path, "alerts")
    assert read_role_problems(tmp_path) == []
