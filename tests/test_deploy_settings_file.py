"""The settings file as people write it: anchors, defaults, variables, and what would break it."""

import re
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from analyzer.capacity.demand import MemoryDemand
from deploy.checks.preflight import data_problems, weak_secrets
from deploy.config.assemble import build_rules
from deploy.config.memory_demand import build_memory_demand
from deploy.config.partial_settings import DatabaseSubset, LogSubset, NamesSubset
from deploy.config.settings import LongwatchSettings
from deploy.config.settings_file import SettingsCheck, SettingsFile, read_settings, read_subset
from deploy.errors import BadSettings
from test_deploy_settings import CANARY, GOOD, changed, only_own_variables, problems  # noqa: F401


def read(tmp_path: Path, text: str, *checks: SettingsCheck) -> LongwatchSettings:
    file = tmp_path / "site.yaml"
    file.write_text(text)
    return read_settings(file, *checks)


def laughs(begin: str, end: str) -> str:
    """Write nine anchors, each of which repeats the one before nine times."""
    lines = [
        f"x{a}: &{b} {begin}{','.join([f'*{a}'] * 9)}{end}\n" for a, b in pairwise("abcdefghij")
    ]
    return "x: &a {k: 1}\n" + "".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 3000,
        "[" * 3000 + "]" * 3000,
        "a: " + "{b: " * 300 + "1" + "}" * 300,
        "cameras: &a [*a]",
        "cameras: &a {b: *a, c: *a}",
        laughs("[", "]"),
        laughs("{<<: [", "]}"),
        "x-a: " + "[" * 200 + "]" * 200,
    ],
)  # fmt: skip
def test_file_that_would_fill_the_memory_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (said,) = problems(tmp_path, text)
    assert (
        said == "site.yaml: too large, or nested too deep: write it with fewer anchors and brackets"
    )


def test_file_without_an_end_is_refused() -> None:
    with pytest.raises(BadSettings, match="/dev/zero: larger than 4 MiB"):
        read_settings(Path("/dev/zero"))


@pytest.mark.parametrize("value", ["!!int ''", "!!bool maybe", "!!timestamp x", "!!float x"])
def test_value_that_denies_its_tag_is_refused(tmp_path: Path, value: str) -> None:
    (said,) = problems(tmp_path, f"data: {value}\n")
    assert said.startswith("site.yaml: ")


@settings_of_hypothesis(deadline=None, max_examples=300)
@given(st.text("abx-: \n{}[]&*<!'\"#|>?%@`${0", max_size=60))
def test_any_text_is_settings_or_refused(text: str) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "site.yaml"
        file.write_text(text)
        with pytest.raises(BadSettings):
            read_settings(file)


ANCHORS = """\
x-camera: &camera
  fps: 2
  window: 8s
  url: rtsp://u:${UNSET}@10.0.0.20/sub
cameras:
  dock: {<<: *camera, url: rtsp://10.0.0.21/sub}
  yard: {<<: *camera, url: rtsp://10.0.0.22/sub, fps: 1}
questions:
  bag: {ask: "Is there a bag?"}
"""


def test_anchors_are_kept_beside_the_settings(tmp_path: Path) -> None:
    cameras = read(tmp_path, ANCHORS).cameras
    assert {name: (each.fps, each.window.seconds) for name, each in cameras.items()} == {
        "dock": (2.0, 8),
        "yard": (1.0, 8),
    }
    (said,) = problems(tmp_path, ANCHORS.replace("fps: 2", "fps: two"))
    assert said == "site.yaml:2: cameras.dock.fps: write a number"
    (said,) = problems(tmp_path, ANCHORS.replace(", url: rtsp://10.0.0.21/sub", ""))
    assert said == "site.yaml:4: cameras.dock.url: the environment has no variable UNSET: set it"


DEFAULTS = """\
defaults:
  cameras: {fps: 2, window: 8s}
cameras:
  dock: {url: rtsp://10.0.0.21/sub}
  yard: {url: rtsp://10.0.0.22/sub, fps: 1}
questions:
  bag: {ask: "Is there a bag?"}
"""


def test_cameras_have_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cameras = read(tmp_path, DEFAULTS).cameras
    assert [(each.fps, each.window.seconds) for each in cameras.values()] == [(2.0, 8), (1.0, 8)]
    monkeypatch.setenv("LONGWATCH_DEFAULTS__CAMERAS__FPS", "4")
    monkeypatch.setenv("LONGWATCH_CAMERAS__GATE__URL", "rtsp://10.0.0.23/sub")
    found = read(tmp_path, DEFAULTS).cameras
    assert {name: each.fps for name, each in found.items()} == {"dock": 4, "yard": 1, "gate": 4}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("fps: 2", "fsp: 2", "site.yaml:2: defaults.cameras.fsp: unknown key, did you mean fps?"),
        ("fps: 2", "transport: tls", "site.yaml:2: defaults.cameras.transport: choose tcp or udp"),
        ("cameras: {fps: 2, ", "cameras: [", "site.yaml:2: defaults.cameras: write keys"),
        ("  cameras: {fps", "  camera: {fps", "site.yaml:2: defaults.camera: unknown key, did"),
    ],
)
def test_bad_default_is_told_once(tmp_path: Path, old: str, new: str, told: str) -> None:
    text = DEFAULTS.replace(old, new, 1).replace("[window: 8s}", "[8s]")
    assert [each[: len(told)] for each in problems(tmp_path, text)] == [told]


def test_rules_about_health_need_no_question(tmp_path: Path) -> None:
    site = "cameras: {dock: {url: rtsp://10.0.0.21/sub}}\n"
    rule = "rules: [{name: down, health: camera_down}]\n"
    found = read(tmp_path, site + rule)
    assert [each.name for each in build_rules(found)] == ["down"]
    assert (build_memory_demand(found).asks, build_memory_demand(found).look_backs) == (
        MemoryDemand().asks,
        MemoryDemand().look_backs,
    )
    (said,) = problems(tmp_path, site)
    assert said == "site.yaml:1: questions: missing: add one, or a rule about health"


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    model = "data: ~/x\nmodel: {name: ~/m}\n"
    tls = "log: {kafka: {bootstrap: ['k:9092'], tls: {ca: ~/ca.pem}}}\n"
    found = read(tmp_path, GOOD + model + tls)
    assert (found.data, found.model.name) == (Path("/home/ann/x"), "/home/ann/m")
    assert found.log.kafka is not None
    assert found.log.kafka.tls is not None
    assert found.log.kafka.tls.ca == Path("/home/ann/ca.pem")
    (said,) = problems(tmp_path, GOOD + "data: ~nobody-is-called-so/x\n")
    assert said.startswith("site.yaml:15: data: `~` names no user's home here")


KUBERNETES = {
    "LONGWATCH_PORT": "tcp://10.96.0.1:8080",
    "LONGWATCH_SERVICE_HOST": "10.96.0.1",
    "LONGWATCH_SERVICE_PORT": "8080",
    "LONGWATCH_SERVICE_PORT_HTTP": "8080",
    "LONGWATCH_PORT_8080_TCP": "tcp://10.96.0.1:8080",
    "LONGWATCH_PORT_8080_TCP_PROTO": "tcp",
    "LONGWATCH_PORT_8080_TCP_PORT": "8080",
    "LONGWATCH_PORT_8080_TCP_ADDR": "10.96.0.1",
    "LONGWATCH_ALERTS_SERVICE_HOST": "10.96.0.2",
    "LONGWATCH_ALERTS_PORT": "udp://10.96.0.2:53",
}


def test_variables_of_kubernetes_are_no_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**KUBERNETES, "LONGWATCH_CONFIG": "/x.yaml"}.items():
        monkeypatch.setenv(name, value)
    assert list(read(tmp_path, GOOD).cameras) == ["dock"]
    for name, value in {"LONGWATCH_PORT": "8080", "LONGWATCH_SERVICE": "x"}.items():
        monkeypatch.setenv(name, value)
        assert f"{name}: there is no such setting" in problems(tmp_path, GOOD)[0]
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://10.0.0.5/hook", "10.0.0.5 is not a public address: name its net or host in"),
        ("https://[::1]/hook", "::1 is not a public address"),
        ("https://localhost/hook", "127.0.0.1 is not a public address"),
        ("https://169.254.169.254/", "169.254.169.254 is where a cloud hands out credentials"),
    ],
)
def test_private_receiver_has_to_be_allowed(tmp_path: Path, url: str, told: str) -> None:
    text = changed(f"https://soc.example/{CANARY}", url)
    (said,) = problems(tmp_path, text)
    assert said.startswith(f"site.yaml:14: receivers.soc.webhook.url: {told}")
    host = urlsplit(url).hostname
    allowed = text.replace("webhook: {", f"webhook: {{allow: ['{host}'], ")
    if host != "169.254.169.254":
        assert read(tmp_path, allowed).receivers


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("/proc/nope", "data: /proc cannot be written (No such file or directory)"),
        ("/dev/null/x", "data: /dev/null cannot be written (Not a directory)"),
    ],
)
def test_data_that_cannot_be_written_is_refused(tmp_path: Path, data: str, told: str) -> None:
    with pytest.raises(BadSettings, match=re.escape(f"site.yaml:15: {told}: name a directory")):
        read(tmp_path, f"{GOOD}data: {data}\n", data_problems)
    before = set(tmp_path.iterdir()) | {tmp_path / "site.yaml"}
    read(tmp_path, f"{GOOD}data: a/b\n", data_problems)
    assert set(tmp_path.iterdir()) == before


def test_passwords_that_logs_cannot_hide_everywhere_are_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(GOOD + "database: postgresql://longwatch:postgres@db/longwatch\n")
    (said,) = SettingsFile.read(file).warnings(weak_secrets)
    assert said.startswith(f"{file}:15: database: the password is short, or a common word")
    file.write_text(GOOD.replace(CANARY, "camera", 1))
    (said,) = SettingsFile.read(file).warnings(weak_secrets)
    assert said.startswith(f"{file}:3: cameras.dock.url: the password is short")


ACTING = """\
cameras:
  dock: {url: "rtsp://${UNSET_USER}:${UNSET_PASSWORD}@10.0.0.21/sub", fps: lots}
rules:
  - {name: bag-left, when: ${UNSET}, above: 0.8, notify: [soc]}
receivers:
  soc:
    webhook: {url: "https://soc.example/${UNSET}", secret: "${UNSET}"}
    route: {group_by: [camera]}
database: postgresql://longwatch:${UNSET}@db/longwatch
"""


def test_part_of_settings_needs_no_other_secret(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(ACTING.replace("when: ${UNSET}", 'when: "${UNSET}"'))
    assert read_subset(file, LogSubset).data == tmp_path / "data"
    part = read_subset(file, NamesSubset)
    assert (list(part.cameras), part.rules[0].notify) == (["dock"], ["soc"])
    assert (part.receivers["soc"].kind, part.receivers["soc"].route.group_by) == (
        "webhook",
        ("camera",),
    )
    with pytest.raises(BadSettings, match=r"site.yaml:9: database: the environment has no"):
        read_subset(file, DatabaseSubset)
    with pytest.raises(BadSettings) as caught:
        read_settings(file)
    assert str(caught.value).count("the environment has no variable") == 6


SECRET = 'c4n4ry\'s \\ "secret"'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("when: bag", 'when: "${SECRET}"'),
        ("when: bag", 'when: "x-${SECRET}*"'),
        ("notify: [soc]", 'notify: ["${SECRET}"]'),
        ("above: 0.8", 'above: 0.8\n    cameras: ["${SECRET}"]'),
        ("https://soc.example/", "https://${HOST}/"),
    ],
)
def test_value_of_a_variable_is_not_shown_where_a_name_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    monkeypatch.setenv("SECRET", "c4n4ryS3cret")
    monkeypatch.setenv("HOST", "10.0.0.77")
    said = "".join(problems(tmp_path, changed(old, new)))
    assert "c4n4ry" not in said
    assert "10.0.0.77" not in said
    assert "${SECRET}" in said or "${HOST}" in said


def test_short_value_of_a_variable_is_not_shown_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "ag")
    (said,) = problems(tmp_path, changed("when: bag", 'when: "${SECRET}"'))
    assert "no question is called '${SECRET}' (known: bag)" in said
