"""Static membership as an operator meets it: settings, `longwatch leave`, and a restart's cost."""

import logging
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli.app import app
from deploy.config.settings_file import read_settings
from deploy.errors import BadSettings, DeployError
from deploy.runtime.role_builder import build_analyze_roles
from kit.chaos.analyzer_restarts import run_analyzer_restarts
from kit.kafka.broker import Broker
from storage.log.access import LogAccess
from storage.log.kafka.check import check_kafka
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.log import KafkaLog
from test_kafka_static import (
    ELSEWHERE,
    group_of,
    joined,
    member_of,
    named,
    owns,
    process_with,
    stranger,
)
from test_log_contract import until


def a_site(folder: Path, kafka: str, device: str = "cpu") -> Path:
    file = folder / "site.yaml"
    file.write_text(
        f"data: {folder}/data\n"
        "cameras: {dock: {url: 'rtsp://127.0.0.1/x'}}\n"
        "questions: {any: {ask: 'Is it?', every: 16s}}\n"
        f"model: {{device: {device}}}\n"
        f"log: {{kafka: {{bootstrap: ['k:9092'], {kafka}}}}}\n"
    )
    return file


def members(file: Path) -> list[tuple[str, float]]:
    found = []
    for role in build_analyze_roles(read_settings(file), logging.INFO):
        log = role.locations.log
        assert isinstance(log, KafkaConfig)
        if log.static:
            found.append((log.static.name, log.static.session))
    return found


def test_without_the_setting_no_member_is_static(tmp_path: Path) -> None:
    assert members(a_site(tmp_path, "partitions: 4")) == []


def test_a_member_is_called_by_its_host_and_its_device(tmp_path: Path) -> None:
    host = socket.gethostname()
    assert members(a_site(tmp_path, "static: {}")) == [(f"{host}-cpu", 120.0)]
    named = a_site(tmp_path, "static: {name: dock-2, session: 45s}", "[cuda:0, cuda:1]")
    assert members(named) == [("dock-2-cuda-0", 45.0), ("dock-2-cuda-1", 45.0)]


@pytest.mark.parametrize(
    ("kafka", "told"),
    [
        ("static: {session: 5s}", "static.session: must be at least 6s"),
        ("static: {session: 31m}", "static.session: must be at most 30m"),
        ("static: {name: 'a b'}", "static.name"),
        ("static: {nmae: a}", "static.nmae"),
        ("session: 20s, static: {session: 10s}", "static.session is shorter than session"),
    ],
)
def test_what_no_member_can_be_is_refused_by_its_key(tmp_path: Path, kafka: str, told: str) -> None:
    with pytest.raises(BadSettings) as caught:
        read_settings(a_site(tmp_path, kafka))
    assert told in str(caught.value)


def test_the_session_is_compared_with_what_the_brokers_take(kafka: Broker) -> None:
    kafka_config = kafka.place()
    (good,) = [each for each in check_kafka(kafka_config, LogAccess()) if each.name == "session"]
    assert good.is_good
    assert good.found.startswith("log.kafka.session is 6 s, the brokers take group.min.session")
    (bad,) = [
        each
        for each in check_kafka(kafka.place(session=0.5), LogAccess())
        if each.name == "session"
    ]
    assert not bad.is_good
    assert "(1 to 1800 s)" in bad.found


def leave(folder: Path, kafka_config: KafkaConfig, *words: str) -> str:
    """Run the command; return what it printed, raise what it refused."""
    (bootstrap,) = kafka_config.bootstrap
    settings = f"prefix: {kafka_config.prefix}, partitions: 4, static: {{name: ours, session: 30s}}"
    file = a_site(folder, settings)
    file.write_text(file.read_text().replace("k:9092", bootstrap))
    ran = CliRunner().invoke(app, ["leave", "-c", str(file), *words])
    if isinstance(ran.exception, DeployError):
        raise ran.exception
    assert ran.exit_code == 0, ran.output
    return ran.output


@pytest.fixture
def place(kafka: Broker) -> Iterator[KafkaConfig]:
    made = kafka.place(session=3.0)
    with closing(KafkaLog(made)):
        yield made


def test_a_member_that_stopped_for_good_leaves_and_the_others_take_over(
    place: KafkaConfig, tmp_path: Path
) -> None:
    with joined(named(place, "other", 30.0)) as other:
        with joined(named(place, "ours-cpu", 30.0)) as ours:
            until(lambda: owns(ours, 2) and owns(other, 2), 20)
        assert leave(tmp_path, place) == f"ours-cpu: removed from group {group_of(place)}\n"
        until(lambda: owns(other, 4), 20)
    with pytest.raises(DeployError, match=r"has no static member ours-cpu; it has: other$"):
        leave(tmp_path, place)
    assert '"removed":["other"]' in leave(tmp_path, place, "other", "--json").replace(" ", "")


def test_a_member_that_runs_here_is_not_removed(place: KafkaConfig, tmp_path: Path) -> None:
    with process_with(named(place, "ours-cpu", 30.0)) as process:
        until(lambda: member_of(place, "ours-cpu"), 30)
        with pytest.raises(DeployError, match=f"process {process.pid} of this host is ours-cpu"):
            leave(tmp_path, place)
        assert member_of(place, "ours-cpu")


def test_a_member_whose_host_is_gone_is_removed_by_its_name(
    place: KafkaConfig, tmp_path: Path
) -> None:
    with stranger(place, "theirs-cpu", ELSEWHERE, session=30.0):
        pass
    assert "theirs-cpu: removed" in leave(tmp_path, place, "theirs-cpu")


def test_leaving_without_static_membership_says_that_it_is_not_needed(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["leave", "-c", str(a_site(tmp_path, "partitions: 4"))])
    assert isinstance(ran.exception, BadSettings)
    assert "log.kafka.static is not set" in str(ran.exception)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_restarts_of_a_static_member_move_nothing_and_lose_no_window(kafka: Broker) -> None:
    dynamic = run_analyzer_restarts(kafka, 2, is_static=False)
    static = run_analyzer_restarts(kafka, 2, is_static=True)
    assert (static.missing, static.went_back, static.moved, static.rebalances) == (0, 0, 0, 0)
    assert (dynamic.missing, dynamic.went_back) == (0, 0)
    assert dynamic.rebalances >= dynamic.restarts
