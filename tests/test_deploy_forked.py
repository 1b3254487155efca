"""Cameras' processes: forked from a server that holds what they share, and goes on without."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from deploy.config.data_dir import LOG_FILE
from deploy.runtime.process import ORPHAN_GRACE_SECONDS, ProcessRole
from deploy.runtime.supervisor import Supervisor
from kit.deploy import roles
from kit.deploy.command import run_longwatch
from kit.ingest.fixtures import GStreamerServer, free_port, write_clip
from kit.waiting import wait_for
from storage.log.sqlite.log import SqliteLog
from storage.records.topics import WINDOWS
from test_deploy_supervisor import a_role, is_alive, lines_of, supervised

CAMERAS = 4
INIT = """
import ctypes, sys, threading
from pathlib import Path
from test_deploy_supervisor import a_role
from kit.deploy import roles
from deploy.runtime.supervisor import Supervisor

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans come to this process, as to process 1
    role = a_role(roles.WorkingRole, Path(sys.argv[1]), is_forked=True)
    Supervisor([role]).run(threading.Event())
"""

WATCHER = """
import sys

if __name__ == "__main__":
    import threading
    from pathlib import Path
    from kit.deploy import roles
    from test_deploy_supervisor import a_role
    from deploy.config.data_dir import StorageLocations
    from deploy.logs.setup import LoggingConfig
    from deploy.runtime.roles import IngestRole
    from deploy.runtime.supervisor import Supervisor
    from ingest.camera import Camera

    file = Path(sys.argv[1])
    locations = StorageLocations(data=file.parent, log=file.with_name("log.db"), database="")
    camera = Camera(name="dock", url=sys.argv[2], stills_per_window=4)
    ingest = IngestRole(name="x", logging=LoggingConfig(), camera=camera, locations=locations)
    role = a_role(roles.WatchingRole, file, is_forked=True, ingest=ingest)
    Supervisor([role]).run(threading.Event())
"""


def a_forked(name: str, kind: type[roles.FileRole], folder: Path) -> ProcessRole:
    return replace(a_role(kind, folder / name, is_forked=True), name=name)


def parent_of(pid: str) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1]


def kill_server_of(pid: str) -> str:
    server = parent_of(pid)
    os.kill(int(server), signal.SIGKILL)
    wait_for(lambda: not is_alive(server), 5)
    return server


def children_of(pid: int | str) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_processes_go_on_where_the_fork_server_is_killed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    works: dict[str, type[roles.FileRole]] = {
        "one": roles.WorkingRole,
        "two": roles.WorkingRole,
        "three": roles.IgnoringStopRole,
    }
    with supervised(*(a_forked(name, work, tmp_path) for name, work in works.items())):
        pids = [lines_of(tmp_path / name, 1)[0] for name in works]
        server = kill_server_of(pids[0])
        time.sleep(1)
        assert all(map(is_alive, pids))
        os.kill(int(pids[0]), signal.SIGKILL)
        again = lines_of(tmp_path / "one", 2)[1]
        assert parent_of(again) not in {server, str(os.getpid())}
        assert [len(lines_of(tmp_path / name, 1)) for name in works] == [2, 1, 1]
    assert not any(map(is_alive, [*pids, again]))
    assert lines_of(tmp_path / "two", 2)[1] == "stopped"
    assert lines_of(tmp_path / "one", 3)[2] == "stopped"
    said = capfd.readouterr()
    shown = said.out + said.err
    assert shown.count("the fork server was killed: its processes go on") == 1
    assert shown.count("process ended, started again") == 1


def test_process_that_hangs_after_its_fork_server_was_killed_is_killed(tmp_path: Path) -> None:
    with supervised(a_forked("one", roles.HangingLaterRole, tmp_path)):
        (pid,) = lines_of(tmp_path / "one", 1)
        kill_server_of(pid)
        (tmp_path / "hang").touch()
        assert lines_of(tmp_path / "one", 2)[1] != pid
        assert not is_alive(pid)


@pytest.mark.parametrize("with_server", [True, False])
def test_nothing_outlives_a_killed_supervisor(tmp_path: Path, with_server: bool) -> None:
    with init(tmp_path / "pids") as supervisor:
        (pid,) = lines_of(tmp_path / "pids", 1)
        server = parent_of(pid)
        if not with_server:
            kill_server_of(pid)
        supervisor.kill()
    wait_for(lambda: not is_alive(pid) and not is_alive(server), ORPHAN_GRACE_SECONDS + 3)


def test_process_one_leaves_no_zombie_of_a_killed_fork_server(tmp_path: Path) -> None:
    with init(tmp_path / "pids") as supervisor:
        (pid,) = lines_of(tmp_path / "pids", 1)
        kill_server_of(pid)
        wait_for(lambda: parent_of(pid) == str(supervisor.pid), 5)
        os.kill(int(pid), signal.SIGKILL)
        lines_of(tmp_path / "pids", 2)
        assert pid not in children_of(supervisor.pid)
        supervisor.kill()


def init(file: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return script(INIT, file)


@contextmanager
def script(text: str, file: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    program = file.with_name("program.py")
    program.write_text(text)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, str(program), str(file), *arguments]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}) as process:
        try:
            yield process
        finally:
            process.kill()


def test_signals_that_end_a_service_do_not_end_its_fork_server(tmp_path: Path) -> None:
    with supervised(a_forked("one", roles.WorkingRole, tmp_path)):
        (pid,) = lines_of(tmp_path / "one", 1)
        server = parent_of(pid)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(int(server), number)
        os.kill(int(pid), signal.SIGKILL)
        assert parent_of(lines_of(tmp_path / "one", 2)[1]) == server


def test_process_that_cannot_be_started_is_tried_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    supervisor = Supervisor([a_forked("one", roles.WorkingRole, tmp_path)])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    supervisor.run_once()
    lines_of(tmp_path / "one", 1)
    child = supervisor.children["one"]
    assert child.process is not None
    child.process.kill()
    child.process.join()
    supervisor.run_once()
    child.next_start = 0.0
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        supervisor.run_once()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert child.process is None
    assert child.failures == 2
    child.next_start = 0.0
    supervisor.run_once()
    lines_of(tmp_path / "one", 2)
    supervisor.stop_children()
    said = capfd.readouterr()
    assert "process not started: check the limits" in said.out + said.err
    assert "Too many open files" in said.out + said.err


def test_fork_server_holds_what_cameras_share_and_nothing_that_cannot_be_forked(
    tmp_path: Path,
) -> None:
    with supervised(a_forked("one", roles.ListingModulesRole, tmp_path)):
        server, *modules = lines_of(tmp_path / "one", 3)
        assert {"av", "numpy", "ingest.worker", "storage.log.sqlite.log"} <= set(modules)
        assert {"torch", "kafka", "sqlalchemy", "pydantic_settings", "typer"} & set(
            modules
        ) == set()
        assert len(list(Path(f"/proc/{server}/task").iterdir())) == 1
        files = [path.readlink().name for path in Path(f"/proc/{server}/fd").iterdir()]
        assert not any(name.endswith((".db", ".db-wal", ".lock")) for name in files)


def test_process_of_a_camera_loads_nothing_that_its_fork_server_has_not(
    tmp_path: Path, rtsp: GStreamerServer
) -> None:
    file = tmp_path / "loaded"
    with script(WATCHER, file, rtsp.url):
        wait_for((tmp_path / "log.db").exists, 60)
        with closing(SqliteLog(tmp_path / "log.db")) as log:
            wait_for(lambda: sum(map(log.end_offset, log.partitions(WINDOWS))), 60)
        (tmp_path / "enough").touch()
        assert lines_of(file, 1) == ["nothing"]


def test_process_is_spawned_where_none_can_be_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with supervised(a_forked("one", roles.WorkingRole, tmp_path)) as supervisor:
        lines_of(tmp_path / "one", 1)
        assert isinstance(supervisor.children["one"].process, SpawnProcess)
    assert lines_of(tmp_path / "one", 2)[1] == "stopped"


def test_cameras_of_the_command_load_no_command_line(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    closed = f"rtsp://127.0.0.1:{free_port()}/cam"
    site.write_text(
        f"cameras: {{dock: {{url: '{closed}'}}, yard: {{url: '{closed}'}}}}\n"
        f"questions: {{any: {{ask: 'Is it?', every: 16s}}}}\n"
        f"data: {tmp_path / 'data'}\n"
    )
    errors = tmp_path / "errors"
    with run_longwatch("ingest", "-c", site, errors=errors) as process:
        wait_for(lambda: errors.read_text().count("camera lost") >= 2, 60)
        cameras = {child for server in children_of(process.pid) for child in children_of(server)}
        assert len(cameras) == 2
        libraries = [Path(f"/proc/{pid}/maps").read_text() for pid in cameras]
        assert all("libavcodec" in each for each in libraries)
        assert not any("/yaml/" in each for each in libraries)
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("size", "most"), [((640, 480), 32), ((1920, 1080), 45)])
def test_process_of_a_camera_takes_little_memory(
    tmp_path: Path, gstreamer: None, size: tuple[int, int], most: float
) -> None:
    """Proportional memory after a window, in MB; `tests/bench/ingest.py memory` has more."""
    clip = write_clip(tmp_path / "a.h264", size=size)
    with GStreamerServer(clip=clip) as rtsp:
        pids = cameras_that_made_a_window(tmp_path, rtsp.url)
    assert len(pids) == CAMERAS
    assert max(pids.values()) <= most


def cameras_that_made_a_window(folder: Path, url: str) -> dict[str, float]:
    """Return the PSS of each camera's process, in MB."""
    site, data = folder / "site.yaml", folder / "data"
    ask = "questions: {any: {ask: 'Is it?', every: 16s}}\n"
    cameras = "".join(f"  c{n}: {{url: '{url}'}}\n" for n in range(CAMERAS))
    site.write_text(f"{ask}cameras:\n{cameras}data: {data}\n")
    errors = folder / "errors"
    with run_longwatch("ingest", "-c", site, errors=errors) as process:
        wait_for(lambda: errors.read_text().count("camera connected") >= CAMERAS, 60)
        with closing(SqliteLog(data / LOG_FILE)) as log:
            wait_for(lambda: sum(map(log.end_offset, log.partitions(WINDOWS))) >= CAMERAS, 60)
        pids = [pid for server in children_of(process.pid) for pid in children_of(server)]
        return {pid: pss_of(pid) for pid in pids}


def pss_of(pid: str) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))
