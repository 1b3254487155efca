"""ingest, analyze and alert as services of their own, over a broker and a database server."""

import json
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.config.data_dir import LOG_FILE
from deploy.config.settings_file import read_settings
from deploy.config.storage_locations import storage_locations
from deploy.demo import camera_server
from deploy.errors import BadSettings
from kit.deploy.command import LONGWATCH, ROOT, Command, longwatch, run_longwatch
from kit.ingest.fixtures import free_port
from kit.kafka.broker import Broker
from kit.storage.fixtures import a_finding, an_incident
from kit.waiting import wait_for
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.log.kafka.log import KafkaLog
from storage.log.sqlite.log import SqliteLog
from storage.records.records import DeadLetter
from storage.records.topics import DEAD_LETTERS, FINDINGS, INCIDENTS
from storage.records.wire import encode_dead_letter, encode_finding, encode_incident
from test_deploy_cli import filmed_camera

SITE = """\
cameras:
  dock: {{url: "{url}", window: 4s}}
questions:
  any: {{ask: "Is anything unusual happening?", every: 4s}}
rules:
  - {{name: always, when: any, above: 0.0001}}
model: {{name: {model}}}
data: {data}
log:
  kafka: {{bootstrap: ["127.0.0.1:{port}"], prefix: "{prefix}", partitions: 3,
          session: 6s, timeout: 5s}}
"""


def a_site(folder: Path, broker: Broker, model: Path | str = "nano", url: str = "") -> Path:
    file = folder / "site.yaml"
    text = SITE.format(
        url=url or f"rtsp://127.0.0.1:{free_port()}/dock",
        model=model,
        data=folder / "data",
        port=broker.port,
        prefix=broker.place().prefix,
    )
    file.write_text(text)
    return file


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_services_over_a_broker_and_a_server_tell_of_an_incident(
    tmp_path: Path, kafka: Broker, postgres_url: str, checkpoint: Path
) -> None:
    port = free_port()
    site = a_site(tmp_path, kafka, checkpoint, camera_server.camera_url(port))
    site.write_text(site.read_text() + f"database: {postgres_url}\n")
    prefix = read_settings(site).log.kafka.prefix  # type: ignore[union-attr]
    with ExitStack() as held:
        held.enter_context(filmed_camera(port))
        services = {
            name: held.enter_context(run_longwatch(name, "-c", site, errors=tmp_path / name))
            for name in ("alert", "analyze", "ingest")
        }
        store = held.enter_context(OpenStore(site))
        wait_for(store.incidents, 120)
        result = subprocess.run(
            [*LONGWATCH, "tail", "incidents", "-c", str(site), "--from-start", "--limit", "1"]
            + ["--json"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            cwd=ROOT,
        )
        consumer = [sys.executable, "-W", "ignore", "-m", "deploy.consumer_example"]
        with subprocess.Popen(
            [*consumer, f"127.0.0.1:{kafka.port}", prefix],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as example:
            assert example.stdout is not None
            line = example.stdout.readline()
            example.kill()
        listed = longwatch("incidents", "list", "-c", site, "--json")
        coverage = longwatch("coverage", "dock", "-c", site, "--json")
        for process in services.values():
            process.send_signal(signal.SIGTERM)
        wait_for(lambda: all(each.poll() is not None for each in services.values()), 40)
    assert {name: each.returncode for name, each in services.items()} == {
        "alert": 0,
        "analyze": 0,
        "ingest": 0,
    }
    incident = json.loads(result.stdout)
    assert (incident["camera"], incident["rule"]) == ("dock", "always")
    assert " dock always " in line
    assert "always" in listed.stdout, listed.stderr
    assert json.loads(coverage.stdout)["seconds"], coverage.stderr


class OpenStore(ExitStack):
    """The database of a site, once it is there."""

    def __init__(self, site: Path) -> None:
        super().__init__()
        self._engine = open_database(storage_locations(read_settings(site)).database)
        self.callback(self._engine.dispose)

    def __enter__(self) -> AlertStore:  # type: ignore[override]
        return AlertStore(self._engine)


def test_tail_shows_what_a_consumer_sees(tmp_path: Path, command: Command) -> None:
    log = SqliteLog(tmp_path / LOG_FILE)
    for camera in ("dock", "yard", "dock"):
        log.append(FINDINGS, camera, encode_finding(a_finding(camera=camera)))
    log.append(INCIDENTS, "dock", encode_incident(an_incident()), b"no json")
    log.close()
    words = ["--data", tmp_path, "--from-start", "--limit", 2]
    found = command("tail", "findings", *words, "--camera", "do*", "--json")
    assert [json.loads(line)["camera"] for line in found.stdout.splitlines()] == ["dock", "dock"]
    result = command("tail", "findings", *words)
    assert result.stdout.splitlines()[0] == "2026-11-22 08:00:16  dock  bag  yes 0.90"
    incidents = command("tail", "incidents", *words, "--json")
    first, second = map(json.loads, incidents.stdout.splitlines())
    assert (first["rule"], second["unreadable"]) == ("bag-left", "no json")


def test_what_was_set_aside_is_appended_again_once_it_can_be_read(
    tmp_path: Path, command: Command
) -> None:
    readable, poison = encode_finding(a_finding()), b"\x00poison"
    newer = readable.replace(b'"version":1', b'"version":2')
    log = SqliteLog(tmp_path / LOG_FILE)
    for n, value in enumerate((readable, newer, poison)):
        dead = DeadLetter(
            topic=FINDINGS, offset=n, key="dock", reason="version 2, not 1", value=value
        )
        log.append(DEAD_LETTERS, "dock", encode_dead_letter(dead), b"no record")
    log.close()
    listed = json.loads(command("dead", "list", "--data", tmp_path, "--json").stdout)
    assert [(each["part"], each["position"]) for each in listed] == [
        (FINDINGS, n) for n in range(3)
    ]
    assert "version 2" in command("dead", "list", "--data", tmp_path).stdout
    result = command("dead", "replay", "--data", tmp_path, "--json")
    assert json.loads(result.stdout) == {"replayed": 1, "left": 2}
    log = SqliteLog(tmp_path / LOG_FILE)
    assert [(entry.key, entry.value) for entry in log.read(FINDINGS, 0)] == [("dock", readable)]
    log.close()


def test_tail_ends_quietly_when_nobody_reads(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / LOG_FILE)
    log.append(FINDINGS, "dock", *(encode_finding(a_finding(n)) for n in range(50)))
    log.close()
    words = " ".join([*LONGWATCH, "tail", "findings", "--data", str(tmp_path), "--from-start"])
    done = subprocess.run(
        f"{words} --limit 50 | head -1", shell=True, capture_output=True, text=True, cwd=ROOT,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_tail_over_a_broker(tmp_path: Path, kafka: Broker, command: Command) -> None:
    site = a_site(tmp_path, kafka)
    place = storage_locations(read_settings(site)).log
    log = KafkaLog(place)  # type: ignore[arg-type]
    for camera in ("dock", "yard"):
        log.append(FINDINGS, camera, encode_finding(a_finding(camera=camera)))
    log.close()
    result = command("tail", "findings", "-c", site, "--from-start", "--limit", 2, "--json")
    assert {json.loads(line)["camera"] for line in result.stdout.splitlines()} == {"dock", "yard"}


def test_service_says_that_a_topic_does_not_fit_and_ends(tmp_path: Path, kafka: Broker) -> None:
    site = a_site(tmp_path, kafka)
    KafkaLog(storage_locations(read_settings(site)).log).close()  # type: ignore[arg-type]
    site.write_text(site.read_text().replace("partitions: 3", "partitions: 5"))
    ended = longwatch("ingest", "-c", site)
    assert ended.returncode == 2
    assert "it has 3 partitions, log.kafka.partitions says 5" in ended.stderr
    assert ended.stderr.count("process started") == 1


def test_service_waits_for_a_broker_that_is_down(tmp_path: Path, kafka: Broker) -> None:
    site = a_site(tmp_path, kafka)
    port = free_port()
    site.write_text(site.read_text().replace(f":{kafka.port}", f":{port}").replace("5s", "1s"))
    errors = tmp_path / "errors"
    with run_longwatch("alert", "-c", site, errors=errors) as process:
        wait_for(lambda: "does not answer (connection refused)" in errors.read_text(), 60)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: process.poll() is not None, 30)
    assert process.returncode == 0
    assert "process ended" not in errors.read_text()


def test_services_of_one_machine_run_side_by_side_and_none_twice(tmp_path: Path) -> None:
    from deploy.config.data_dir import lock_data_dir
    from deploy.errors import DataInUse

    with lock_data_dir(tmp_path, ["alert"]), lock_data_dir(tmp_path, ["analyze"]):
        with pytest.raises(DataInUse), lock_data_dir(tmp_path, ["alert"]):
            pass
        with pytest.raises(DataInUse), lock_data_dir(tmp_path):
            pass
    with lock_data_dir(tmp_path), pytest.raises(DataInUse):
        lock_data_dir(tmp_path, ["alert"]).__enter__()


@pytest.mark.parametrize(
    ("kafka", "told"),
    [
        ("{bootstrap: []}", "bootstrap"),
        ("{bootstrap: [kafka-1]}", "bootstrap"),
        ('{bootstrap: ["k:9092"], partition: 3}', "partition"),
        ('{bootstrap: ["k:9092"], partitions: 0}', "partitions"),
        ('{bootstrap: ["k:9092"], sasl: {user: me}}', "password"),
        ('{bootstrap: ["k:9092"], sasl: {mechanism: GUESS, user: me, password: x}}', "mechanism"),
        ('{bootstrap: ["k:9092"], tls: {key: k.pem}}', "a key without its certificate"),
    ],
)
def test_settings_of_kafka_that_cannot_be_used_are_refused_by_line(
    tmp_path: Path, kafka: str, told: str
) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(
        "cameras: {dock: {url: 'rtsp://127.0.0.1/x'}}\n"
        "questions: {any: {ask: 'Is it?', every: 16s}}\n"
        f"log:\n  kafka: {kafka}\n"
    )
    with pytest.raises(BadSettings, match=rf"site\.yaml:4.*{told}"):
        read_settings(file)


def test_a_window_that_may_not_fit_a_message_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(
        "cameras:\n  dock: {url: 'rtsp://127.0.0.1/x', still_side: 1920}\n"
        "questions: {any: {ask: 'Is it?', every: 16s}}\n"
    )
    read_settings(file)
    file.write_text(file.read_text() + "log: {kafka: {bootstrap: ['k:9092']}}\n")
    with pytest.raises(BadSettings, match=r"yaml:2.*16 stills may take 59\.0 MB, a message 8\.4"):
        read_settings(file)


@pytest.mark.parametrize("url", ["mysql://me:c4n4ry@db/x", "c4n4ry"])
def test_a_database_that_is_none_is_refused_without_its_password(tmp_path: Path, url: str) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(
        "cameras: {dock: {url: 'rtsp://127.0.0.1/x'}}\n"
        "questions: {any: {ask: 'Is it?', every: 16s}}\n"
        f"database: '{url}'\n"
    )
    with pytest.raises(BadSettings, match=r"yaml:3.*postgresql://USER") as error:
        read_settings(file)
    assert "c4n4ry" not in str(error.value)
