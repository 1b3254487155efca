"""What longwatch writes only its owner can read, and no child inherits a secret."""

import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from deploy.config.data_dir import (
    DATABASE_FILE,
    EVIDENCE_FOLDER,
    LOG_FILE,
    database_url,
    lock_data_dir,
    write_private,
)
from deploy.config.environment import drop_secrets
from deploy.config.settings_file import SettingsFile
from kit.deploy import roles
from kit.deploy.command import run_longwatch
from kit.ingest.fixtures import free_port
from kit.storage.fixtures import START
from kit.waiting import wait_for
from storage.db.database import open_database
from storage.log.sqlite.log import SqliteLog
from storage.role_problems import FOLDER, RoleProblem, write_role_problem
from test_deploy_supervisor import a_role, lines_of, supervised

CANARY = "c4n4ry-hunter2"
SITE = """\
cameras:
  dock: {{url: "rtsp://guard:${{DOCK_PASSWORD}}@127.0.0.1:{closed}/sub", window: 4s}}
questions:
  any: {{ask: "Is anything unusual happening?", every: 4s}}
route: {{group_wait: 0s}}
rules:
  - {{name: down, health: camera_down, notify: [chat, hook]}}
receivers:
  chat:
    apprise: {{url: "json://127.0.0.1:{port}/${{CHAT_TOKEN}}", allow: [127.0.0.1]}}
  hook:
    webhook:
      url: "http://127.0.0.1:{closed}/x"
      secret: whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz
      allow_private: true
model: {{name: {model}}}
data: "${{PLACE}}"
"""


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """Return what others have any right on, of a folder and all below it."""
    paths = [folder, *folder.rglob("*")]
    assert len(paths) > 1
    return [f"{path}: {path.stat().st_mode:o}" for path in paths if path.stat().st_mode & 0o077]


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_files_are_private_under_any_umask(tmp_path: Path, mask: int) -> None:
    data = tmp_path / "data"
    with (
        umask(mask),
        lock_data_dir(data, ["alert"]),
        closing(SqliteLog(data / LOG_FILE)) as log,
        open_database(database_url(data)).connect(),
    ):
        log.append("windows", "dock", b"x")
        write_private(data / "demo.yaml", "secret")
        write_role_problem(data, RoleProblem(role="alerts", reason="no password", since=START))
        names = {path.name for path in data.iterdir()}
        assert {f"{LOG_FILE}-wal", f"{DATABASE_FILE}-shm", "alert.lock", FOLDER} < names
        assert open_to_others(data) == []


def test_a_child_writes_private_files_under_any_umask(tmp_path: Path) -> None:
    with umask(0), supervised(a_role(roles.WorkingRole, tmp_path / "pids")):
        lines_of(tmp_path / "pids", 1)
    assert (tmp_path / "pids").stat().st_mode & 0o777 == 0o600


def test_what_was_open_to_others_is_closed_once_and_said(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    with umask(0):
        still = data / EVIDENCE_FOLDER / "some-id" / "at" / "x.jpg"
        still.parent.mkdir(parents=True)
        elsewhere.mkdir()
        for path in (still, data / LOG_FILE, data / "mine.sh", elsewhere / "x"):
            path.touch()
        (data / EVIDENCE_FOLDER / "link").symlink_to(elsewhere)
    with capture_logs() as log_lines, lock_data_dir(data):
        pass
    (data / EVIDENCE_FOLDER / "link").unlink()
    (line,) = log_lines
    assert (line["event"], line["paths"]) == ("data were open to other users, closed now", 6)
    assert open_to_others(data) == [f"{data / 'mine.sh'}: 100666"]
    assert elsewhere.stat().st_mode & 0o777 == 0o777
    with capture_logs() as log_lines, lock_data_dir(data):
        pass
    assert log_lines == []


def test_variables_of_secrets_leave_the_environment_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(
        "cameras:\n"
        '  dock: {url: "rtsp://${DOCK_USER}:${DOCK_PASSWORD}@127.0.0.1/x"}\n'
        "questions: {any: {ask: 'Is it?', every: 16s}}\n"
        'receivers: {hook: {webhook: {url: "https://soc.example", secrets: ["${SECRET}"]}}}\n'
        'data: "${HOME}/data"\n'
    )
    secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
    given = {"DOCK_USER": "guard", "DOCK_PASSWORD": CANARY, "SECRET": secret, "OTHER": CANARY}
    for name, value in (given | {"LONGWATCH_CAMERAS__DOCK__FPS": "2"}).items():
        monkeypatch.setenv(name, value)
    before = set(os.environ)
    drop_secrets(SettingsFile.read(file))
    assert before - set(os.environ) == {*given, "LONGWATCH_CAMERAS__DOCK__FPS"} - {"OTHER"}


class ChatHandler(BaseHTTPRequestHandler):
    """A chat service that looks at the processes of a longwatch while it is told something."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.update(environments(self.server.process))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""


@contextmanager
def chat() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), ChatHandler)
    server.seen = {}  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def environments(process: int) -> dict[str, bytes]:
    """Return the environments of a process and of all below it, by command line."""
    below, found = {process}, dict[str, bytes]()
    parents = {int(path.name): parent_of(path) for path in Path("/proc").glob("[0-9]*")}
    for _ in parents:
        below |= {each for each, parent in parents.items() if parent in below}
    for each in below:
        folder = Path(f"/proc/{each}")
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            found[f"{each} {line}"] = (folder / "environ").read_bytes()
        except OSError:
            continue
    return found


def parent_of(path: Path) -> int:
    try:
        return int((path / "stat").read_text().rpartition(") ")[2].split()[1])
    except OSError:
        return 0


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_run_leaves_nothing_to_others_and_no_secret_to_a_child(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, mask: int
) -> None:
    data, site, errors = tmp_path / "data", tmp_path / "site.yaml", tmp_path / "errors"
    token, secret = f"{CANARY}-token", "whsec_" + "c4n4ry" + "A" * 26
    given = {"DOCK_PASSWORD": CANARY, "CHAT_TOKEN": token, "PLACE": str(data)}
    override = {"LONGWATCH_RECEIVERS__HOOK__WEBHOOK__SECRET": secret}
    for name, value in (given | override).items():
        monkeypatch.setenv(name, value)
    with chat() as server, umask(mask):
        site.write_text(SITE.format(closed=free_port(), port=server.server_port, model=checkpoint))
        with run_longwatch("run", "-c", site, errors=errors) as process:
            server.process = process.pid  # type: ignore[attr-defined]
            wait_for(lambda: server.seen, 150)  # type: ignore[attr-defined]
    seen: dict[str, bytes] = server.seen  # type: ignore[attr-defined]
    assert any("apprise_process" in line for line in seen), seen.keys()
    assert any("resource_tracker" in line for line in seen), seen.keys()
    assert sum("spawn_main" in line for line in seen) == 2, seen.keys()
    assert sum("deploy.runtime.shared_modules" in line for line in seen) == 2, seen.keys()
    assert all(f"PLACE={data}".encode() in environment for environment in seen.values())
    assert not [line for line, environment in seen.items() if b"c4n4ry" in environment]
    assert open_to_others(data) == []
