"""The supervisor, with real processes that die, hang, defy and are left alone."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.config.data_dir import lock_data_dir
from deploy.errors import BadSettings, CommandFailed, DataInUse
from deploy.logs.setup import LoggingConfig
from deploy.runtime import supervisor as supervisor_module
from deploy.runtime.process import ORPHAN_GRACE_SECONDS, ProcessRole
from deploy.runtime.supervisor import MAX_FORKING, MAX_SPAWNING, Supervisor
from ingest.camera import Camera
from kit.deploy import roles
from kit.waiting import wait_for
from storage.backoff import MAX_SECONDS
from storage.role_problems import read_role_problems

CANARY = "c4n4ry-hunter2"
ORPHANS = """
import sys, threading
from pathlib import Path
from kit.deploy import roles
from deploy.logs.setup import LoggingConfig
from deploy.runtime.supervisor import Supervisor

if __name__ == "__main__":
    file, is_forked = Path(sys.argv[1]), sys.argv[2] == "True"
    kinds = {"work": roles.WorkingRole, "defy": roles.IgnoringStopRole}
    shared = {"file": file, "logging": LoggingConfig(), "is_forked": is_forked}
    Supervisor([kind(name=name, **shared) for name, kind in kinds.items()]).run(threading.Event())
"""


@pytest.fixture(name="is_forked", params=[False, True], ids=["spawned", "forked"])
def choose_kind(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def a_role(
    kind: type[roles.FileRole], file: Path, *, is_forked: bool = False, **fields: Any
) -> roles.FileRole:
    logs = LoggingConfig(level=logging.INFO, secrets=(f"rtsp://guard:{CANARY}@10.0.0.21/sub",))
    return kind(name="x", file=file, logging=logs, is_forked=is_forked, **fields)


@contextmanager
def supervised(*supervised_roles: ProcessRole, data: Path | None = None) -> Iterator[Supervisor]:
    supervisor, stop = Supervisor(supervised_roles, grace=1.0, data=data), threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    try:
        yield supervisor
    finally:
        stop.set()
        thread.join()


def lines_of(file: Path, number: int, seconds: float = 60.0) -> list[str]:
    """Wait until a file has so many lines, and return them."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) >= number:
            return lines
        time.sleep(0.05)
    pytest.fail(f"no {number} lines within {seconds} s")


def is_alive(pid: str) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def test_child_that_dies_is_started_again(
    tmp_path: Path, is_forked: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pids"
    with supervised(a_role(roles.CrashingRole, file, is_forked=is_forked, secret=CANARY)):
        first, second, *_ = lines_of(file, 2)
    assert first != second
    said = capfd.readouterr().err
    assert "process crashed" in said
    assert "RuntimeError" in said
    assert CANARY not in said


def test_child_that_breaks_its_promise_is_killed_and_started_again(
    tmp_path: Path, is_forked: bool
) -> None:
    file = tmp_path / "pids"
    with supervised(a_role(roles.HangingRole, file, is_forked=is_forked)):
        first, second, *_ = lines_of(file, 2)
        assert not is_alive(first)
    assert not is_alive(second)


def test_child_that_keeps_its_promise_is_left_alone(tmp_path: Path, is_forked: bool) -> None:
    file = tmp_path / "pids"
    with supervised(a_role(roles.WorkingRole, file, is_forked=is_forked)):
        lines_of(file, 1)
        time.sleep(1)
        assert len(lines_of(file, 1)) == 1
    assert lines_of(file, 2)[1] == "stopped"


def test_child_that_defies_is_killed_after_the_grace(tmp_path: Path, is_forked: bool) -> None:
    file = tmp_path / "pids"
    with supervised(a_role(roles.IgnoringStopRole, file, is_forked=is_forked)):
        (pid,) = lines_of(file, 1)
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert not is_alive(pid)


def test_few_children_start_at_a_time(tmp_path: Path, is_forked: bool) -> None:
    most = MAX_FORKING if is_forked else MAX_SPAWNING
    working = [
        replace(a_role(roles.WorkingRole, tmp_path / "pids", is_forked=is_forked), name=f"x{n}")
        for n in range(most + 2)
    ]
    supervisor = Supervisor(working)
    children = supervisor.children.values()
    supervisor.run_once()
    started = sum(child.process is not None for child in children)
    supervisor.run_once()
    starting = sum(child.is_starting for child in children)
    supervisor.stop_children()
    assert started == most
    assert starting <= most
    with supervised(*working):
        lines_of(tmp_path / "pids", len(working))


def test_sigterm_before_the_handlers_are_there_ends_a_child_cleanly(
    tmp_path: Path, is_forked: bool
) -> None:
    supervisor = Supervisor([a_role(roles.WorkingRole, tmp_path / "pids", is_forked=is_forked)])
    supervisor.run_once()
    process = supervisor.children["x"].process
    assert process is not None
    supervisor.stop_children()
    assert process.exitcode == 0


@pytest.mark.slow
def test_no_child_outlives_a_killed_supervisor(tmp_path: Path, is_forked: bool) -> None:
    file, script = tmp_path / "pids", tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with subprocess.Popen(
        [sys.executable, script, file, str(is_forked)], env={"PYTHONPATH": path}
    ) as supervisor:
        pids = lines_of(file, 2)[:2]
        assert all(map(is_alive, pids))
        supervisor.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + ORPHAN_GRACE_SECONDS + 3
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, pids))


def test_process_of_a_camera_loads_nothing_heavy(tmp_path: Path, is_forked: bool) -> None:
    file = tmp_path / "modules"
    camera = Camera(name="dock", url="rtsp://10.0.0.21/sub")
    with supervised(
        a_role(roles.ListingHeavyModulesRole, file, is_forked=is_forked, camera=camera)
    ):
        assert lines_of(file, 1) == ["light"]


@pytest.mark.slow
def test_role_that_cannot_run_is_held_back_alone_until_it_can(
    tmp_path: Path,
    is_forked: bool,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor_module, "STABLE_SECONDS", 2.0)
    data = tmp_path / "data"
    data.mkdir()
    unfit = a_role(roles.UnfitRole, tmp_path / "unfit", is_forked=is_forked, secret=CANARY)
    fit = replace(a_role(roles.WorkingRole, tmp_path / "fit", is_forked=is_forked), name="y")
    with supervised(unfit, fit, data=data) as supervisor:
        lines_of(tmp_path / "unfit", 2)
        assert is_alive(*lines_of(tmp_path / "fit", 1))
        (held,) = read_role_problems(data)
        assert (held.role, held.reason) == ("x", "database: it refuses longwatch:***")
        (tmp_path / "mended").touch()
        wait_for(lambda: not supervisor.children["x"].problem, 60)
        wait_for(lambda: not read_role_problems(data), 5)
    said = "".join(capfd.readouterr())
    for told in ("held back, the others go on", "database: it refuses longwatch:***", "runs again"):
        assert told in said
    assert CANARY not in said


def test_storage_that_nobody_waited_for_is_a_line_and_not_a_traceback(
    tmp_path: Path, is_forked: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    with supervised(
        a_role(roles.LosingStorageRole, tmp_path / "pids", is_forked=is_forked, secret=CANARY)
    ):
        lines_of(tmp_path / "pids", 2)
    said = "".join(capfd.readouterr())
    assert "database does not answer (it refuses longwatch:***)" in said
    assert "Traceback" not in said
    assert CANARY not in said


def test_a_role_that_ran_once_is_never_given_up(
    tmp_path: Path, is_forked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "STARTED_SECONDS", 0.0)
    pids, data = tmp_path / "pids", tmp_path / "data"
    data.mkdir()
    with supervised(
        a_role(roles.UnfitRole, pids, is_forked=is_forked, secret=CANARY), data=data
    ) as supervisor:
        lines_of(pids, 2)
        assert supervisor.children["x"].has_run
        assert [held.role for held in read_role_problems(data)] == ["x"]


def test_nothing_that_can_run_ends_the_supervisor_with_2(tmp_path: Path, is_forked: bool) -> None:
    unfit = [
        replace(
            a_role(roles.UnfitRole, tmp_path / "pids", is_forked=is_forked, secret="x"),
            name=f"x{n}",
        )
        for n in range(MAX_SPAWNING + 1)
    ]
    with pytest.raises(BadSettings, match="x4: database: it refuses") as raised:
        Supervisor(unfit).run(threading.Event())
    assert raised.value.exit_code == 2
    assert str(raised.value).count("\n") == MAX_SPAWNING


def test_role_that_fails_a_thousand_times_fails_alone(tmp_path: Path, is_forked: bool) -> None:
    file = tmp_path / "pids"
    supervisor = Supervisor([a_role(roles.CrashingRole, file, is_forked=is_forked, secret="x")])
    supervisor.children["x"].failures = 2000
    supervisor.run_once()
    lines_of(file, 1)
    deadline = time.monotonic() + 30
    while supervisor.children["x"].process is not None and time.monotonic() < deadline:
        supervisor.run_once()
        time.sleep(0.05)
    assert supervisor.children["x"].failures == 2001
    assert supervisor.children["x"].next_start < time.monotonic() + MAX_SECONDS
    supervisor.stop_children()


def test_data_directory_is_held_by_one_alone(tmp_path: Path) -> None:
    with (
        lock_data_dir(tmp_path / "data"),
        pytest.raises(DataInUse, match=f"in use by process {os.getpid()}"),
        lock_data_dir(tmp_path / "data"),
    ):
        pass
    with lock_data_dir(tmp_path / "data"):
        pass


def test_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(CommandFailed, match="file/data: Not a directory: name a data directory"),
        lock_data_dir(tmp_path / "file" / "data"),
    ):
        pass
