"""The settings file: what it may say, and what is said about each thing it may not."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from alerts.dispatch.describer import QuestionWording, RuleTemplates
from alerts.dispatch.heartbeat import Heartbeat
from alerts.dispatch.messages import MessageOrigin
from alerts.notify.webhook import Webhook
from analyzer.capacity.demand import plan_of
from analyzer.kv.budget import MemoryPlan
from deploy.checks.model import model_problems
from deploy.config.assemble import (
    build_describer,
    build_origin,
    build_questions,
    build_receivers,
    build_rules,
)
from deploy.config.problems import SettingKey
from deploy.config.settings import LongwatchSettings
from deploy.config.settings_file import _unwrap_type, read_settings, read_subset
from deploy.config.storage_locations import build_kafka_config
from deploy.errors import BadSettings
from storage.settings import KafkaSettings

CANARY = "c4n4ry-hunter2"
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
EXAMPLE = Path(__file__).parent.parent / "deploy" / "example.yaml"

GOOD = f"""\
cameras:
  dock:
    url: rtsp://guard:{CANARY}@10.0.0.21/sub
questions:
  bag:
    ask: "Is there a bag that nobody is with?"
rules:
  - name: bag-left
    when: bag
    above: 0.8
    notify: [soc]
receivers:
  soc:
    webhook: {{url: "https://soc.example/{CANARY}", secret: {SECRET}}}
"""
ABOVE = "    above: 0.8\n    "


@pytest.fixture(autouse=True)
def only_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("LONGWATCH_"):
            monkeypatch.delenv(name)


def problems(tmp_path: Path, text: str) -> list[str]:
    """Return what is said about a file, without the folder."""
    file = tmp_path / "site.yaml"
    file.write_text(text)
    with pytest.raises(BadSettings) as caught:
        read_settings(file)
    assert CANARY not in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_good_settings_are_read(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(GOOD)
    settings = read_settings(file)
    assert settings.cameras["dock"].window == timedelta(seconds=16)
    assert settings.rules[0].notify == ["soc"]
    assert settings.data == tmp_path / "data"
    assert CANARY not in repr(settings)


def test_memory_is_planned_as_the_settings_say(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(GOOD)
    assert plan_of(read_settings(file).memory) == MemoryPlan()
    memory = "{horizon: 30m, recent: 2, focus: 8, mass: corrected, int8: true, limit: 1.5GB}"
    file.write_text(f"{GOOD}memory: {memory}\n")
    settings = read_settings(file)
    half = timedelta(minutes=30)
    assert settings.memory.limit == 1_500_000_000
    assert plan_of(settings.memory) == MemoryPlan(
        horizon=half, focus_horizon=half, recent=2, focus=8, proportional_attention=True, int8=True
    )


def test_compression_has_to_divide_what_it_pools(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(f"{GOOD}memory:\n  compression: 5\n")
    with pytest.raises(BadSettings, match=r"yaml:16: memory.compression: does not divide the 24"):
        read_settings(file, model_problems)


def test_example_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DOCK_USER": "u", "DOCK_PASSWORD": "p", "SOC_SECRET": SECRET}.items():
        monkeypatch.setenv(name, value)
    assert list(read_settings(EXAMPLE).cameras) == ["dock"]


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("    above: 0.8", f'{ABOVE}summary: "{{camera.x}}"', 11, "rules.0.summary: a placeholder"),
        ("    above: 0.8", f'{ABOVE}description: "{{ask"', 11, "rules.0.description: a brace has"),
        ("    above: 0.8", f'{ABOVE}summary: " "', 11, "rules.0.summary: write 1 to 500 ch"),
        ("questions:", '    title: "a\\nb"\nquestions:', 4, "cameras.dock.title: write 1 to 100"),
        ("questions:", "site: ham/burg\nquestions:", 4, "site: write letters, digits, ., _"),
        ("questions:", "labels: {a-b: c}\nquestions:", 4, "labels.a-b: write a label's name"),
        ("questions:", 'labels: {a: " "}\nquestions:', 4, "labels.a: write 1 to 64 characters"),
        ("questions:", "external_url: x\nquestions:", 4, "external_url: url must be a URL such"),
        ("questions:", "external_url: https://a/?b\nquestions:", 4, "external_url: url must have"),
        (f"secret: {SECRET}", f"secret: {SECRET}, attach: clip", 14, "receivers.soc.webhook.atta"),
        ("    url: rtsp", "    ulr: rtsp", 3, "cameras.dock.ulr: unknown key, did you mean url?"),
        ("    above: 0.8", "    above: high", 10, "rules.0.above: write a number"),
        ("    above: 0.8", "    above: [1]", 10, "rules.0.above: write a number"),
        ("    above: 0.8\n", "", 8, "rules.0.above: missing: add it"),
        ("    above: 0.8", "    above: 0.8\n    for: 2 min", 11, "rules.0.for: write a duration"),
        ("    above: 0.8", "    above: 0.8\n    active: x", 11, "rules.0.active.0: write it as"),
        ("    above: 0.8", "    above: 0.8\n    actve: x", 11, "rules.0.actve: unknown key, did"),
        ("    above: 0.8", "    above: 0.8\n    active:\n    - 5", 12, "rules.0.active.0: write"),
        ("    above: 0.8", f"{ABOVE}active: 18:00-19:00 Berln", 11, "rules.0.active.0: no time"),
        ("    above: 0.8", "    above: 0", 10, "rules.0.above: no score is below 0, it would"),
        ("    above: 0.8", f"{ABOVE}below: 0", 11, "rules.0.below: no score is below 0"),
        ("    above: 0.8", f"{ABOVE}within: 5m", 11, "rules.0.within: goes with then or without"),
        ("    above: 0.8", f"{ABOVE}then: bug\n    within: 5m", 11, "rules.0.then: no question is"),
        ("    above: 0.8", f"{ABOVE}then: bug", 8, "rules.0.within: missing: add it, as 40m"),
        ("    above: 0.8", f"{ABOVE}then: gone\n    within: 0s", 12, "rules.0.within: a gap of"),
        ("    above: 0.8", f"{ABOVE}then: a\n    without: b", 12, "rules.0.without: either then"),
        ("    above: 0.8", f"{ABOVE}health: frozen", 11, "rules.0.health: write either `when:"),
        ("    when: bag", "    when: b?x", 9, "rules.0.when: no question is called 'b?x'"),
        ("notify: [soc]", "cameras: ['x*']", 11, "rules.0.cameras.0: no camera is called 'x*'"),
        ("receivers:", "heartbeat: {notify: [sco]}\nreceivers:", 12, "heartbeat.notify.0: no rec"),
        ("receivers:", "heartbeat: {notify: []}\nreceivers:", 12, "heartbeat.notify: at least 1"),
        ("receivers:", "heartbeat: 1m\nreceivers:", 12, "heartbeat: write keys and values"),
        ("    above: 0.8", "    above: 0.2\n    below: 0.5", 11, "rules.0.below: below must"),
        ("  dock:", "  Dock:", 2, "cameras.Dock: write a name with a-z, 0-9, _ and -"),
        ("  dock:", "  yes:", 2, "cameras: a key here is not read as text: put it in quotes"),
        (f"guard:{CANARY}@", f"{CANARY}/x@", 3, "cameras.dock.url: the url cannot be read"),
        (f"{CANARY}@", "${NOBODY_SET_THIS}@", 3, "cameras.dock.url: the environment has no"),
        (f"{CANARY}@", "${A B}@", 3, "cameras.dock.url: write a variable as ${NAME}"),
        ("  bag:", "  dup: {}\n  dup:", 6, "questions.dup: written twice, first on line 5"),
        (SECRET, CANARY, 14, "receivers.soc.webhook: secret must be whsec_"),
        (SECRET, f"*{CANARY}", 14, "column 66: this is not YAML: found undefined alias"),
        (f"secret: {SECRET}", f"secret:{CANARY}", 14, "receivers.soc.webhook.?: unknown key"),
        (f"secret: {SECRET}", "secret: ${S}", 14, "column 67: this is not YAML: expected"),
        ("    when: bag", "    when: box", 9, "rules.0.when: no question is called 'box'"),
        ("notify: [soc]", "notify: [sco]", 11, "rules.0.notify.0: no receiver is called 'sco'"),
        ("notify: [soc]", "cameras: [dok]", 11, "rules.0.cameras.0: no camera is called 'dok'"),
        ("  bag:", "  bag:\n    cameras: [x]", 6, "questions.bag.cameras.0: no camera is called"),
        ("  bag:", "  bag:\n    look_back: 1h", 6, "questions.bag.look_back: longer than memory"),
        ("questions:", "    window: 3s\nquestions:", 2, "cameras.dock: fps x window makes 3"),
        ("questions:", "memory: {horizon: 1h, epoch: 1h}\nquestions:", 4, "memory.epoch: timesta"),
        ("questions:", "memory:\n  epoch: 60s\nquestions:", 5, "memory.epoch: timestamps must"),
        ("questions:", "memory:\n  focus_horizon: 2m\nquestions:", 5, "memory.focus_horizon: lon"),
        ("questions:", "memory: {focus_horizon: 0s}\nquestions:", 4, "memory.focus_horizon: must"),
        ("questions:", "memory: {recent: 0}\nquestions:", 4, "memory.recent: must be at least 1"),
        ("questions:", "memory: {recent: 1025}\nquestions:", 4, "memory.recent: must be at most"),
        ("questions:", "memory: {mass: log}\nquestions:", 4, "memory.mass: choose refer"),
        ("questions:", "memory: {limit: 8}\nquestions:", 4, "memory.limit: write a size as 512MB"),
        ("questions:", f"memory: {{limit: 8{CANARY}}}\nquestions:", 4, "memory.limit: write a"),
        ("questions:", "memory: {limit: 0GB}\nquestions:", 4, "memory.limit: must be more than 0"),
        ("questions:", "memory: {horizn: 1h}\nquestions:", 4, "memory.horizn: unknown key, did"),
        ("questions:", "model:\n  horizon: 1h\nquestions:", 5, "model.horizon: moved: write it"),
        ("questions:", "    window: 80s\nquestions:", 4, "cameras.dock.window: longer than mem"),
        ("questions:", "model: {dtype: int8}\nquestions:", 4, "model.dtype: choose auto, "),
        ("questions:", "model: {revison: x}\nquestions:", 4, "model.revison: unknown key, did you"),
    ],
)  # fmt: skip
def test_bad_settings_name_file_line_and_key(
    tmp_path: Path, old: str, new: str, line: int, told: str
) -> None:
    said = problems(tmp_path, changed(old, new))
    assert any(each.startswith(f"site.yaml:{line}: {told}") for each in said), said


TWO_CAMERAS = """\
cameras:
  dock: {url: rtsp://10.0.0.21/sub}
  yard-1: {url: rtsp://10.0.0.22/sub}
questions:
  drop: {ask: "Is something delivered?", cameras: [dock]}
  pick: {ask: "Is something picked up?", cameras: [yard-1]}
rules:
  - name: forgotten
    when: drop
    without: pick
    within: 40m
    above: 0.8
"""


def test_questions_of_a_sequence_must_meet_on_a_camera(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, TWO_CAMERAS)
    assert said.startswith("site.yaml:10: rules.0.without: no camera is asked both 'drop' and")


def test_question_must_be_asked_of_one_camera_of_a_glob(tmp_path: Path) -> None:
    text = TWO_CAMERAS.replace(
        "    without: pick\n    within: 40m", "    cameras: [dock, 'yard-*']"
    )
    (said,) = problems(tmp_path, text)
    assert said.startswith("site.yaml:10: rules.0.cameras.1: question 'drop' is not asked of 'yar")


def test_rules_are_made_as_the_settings_say(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(
        TWO_CAMERAS.replace("[yard-1]", "[dock, yard-1]")
        + "  - {name: down, health: camera_down, for: 1m}\n"
        + "  - {name: any, when: '*', above: 0.5, active: 18:00-06:00 UTC, quiet: 1h}\n"
    )
    forgotten, down, drop, pick = build_rules(read_settings(file))
    assert (forgotten.question, forgotten.without, forgotten.within) == (
        "drop",
        "pick",
        timedelta(minutes=40),
    )
    assert (down.question, down.above, down.below) == ("health/camera_down", 0.5, 0.5)
    assert down.stale_after > timedelta(days=9999)
    assert [drop.question, pick.question] == ["drop", "pick"]
    assert drop.version != pick.version
    assert drop.quiet == timedelta(hours=1)
    assert drop.active is not None
    assert drop.active.text == ("18:00-06:00 UTC",)


def test_heartbeat_is_made_as_the_settings_say(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(GOOD + "heartbeat: {notify: [soc]}\n")
    assert read_settings(file).heartbeat == Heartbeat(every=timedelta(minutes=1), notify=("soc",))


def test_incidents_are_described_as_the_settings_say(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    text = changed("    above: 0.8", ABOVE + 'summary: "{ask}"')
    text = text.replace("    url: rtsp", "    title: Loading dock\n    url: rtsp")
    text = text.replace(f"secret: {SECRET}", f"secret: {SECRET}, attach: still")
    more = "site: hamburg\nlabels: {team: dock}\nexternal_url: https://watch.example/x\n"
    file.write_text(text + more)
    settings = read_settings(file)
    describer = build_describer(settings)
    assert describer.origin == MessageOrigin(site="hamburg", labels={"team": "dock"})
    assert describer.titles == {"dock": "Loading dock"}
    assert describer.templates == {"bag-left": RuleTemplates(summary="{ask}")}
    (question,) = build_questions(settings)
    assert describer.questions == {
        "bag": QuestionWording(ask=question.ask, version=question.version)
    }
    assert describer.external_url == "https://watch.example/x"
    assert [rule.version for rule in describer.rules] == [r.version for r in build_rules(settings)]
    (receiver,) = build_receivers(settings)
    assert isinstance(receiver, Webhook)
    assert receiver.stills == tmp_path / "data" / "evidence"
    kafka = KafkaSettings(bootstrap=["kafka:9092"])
    assert build_kafka_config(kafka, settings.site).site == "hamburg"


def test_labels_and_site_come_from_the_environment_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(GOOD)
    assert build_origin(read_settings(file)).fields == {}
    monkeypatch.setenv("LONGWATCH_SITE", "bremen")
    assert build_origin(read_settings(file)).fields == {"site": "bremen"}


def test_all_errors_are_listed(tmp_path: Path) -> None:
    text = changed("    above: 0.8", "    above: high\n    loud: true") + "cellar: 1\n"
    keys = [said.split(": ")[1] for said in problems(tmp_path, text)]
    assert sorted(keys) == ["cellar", "rules.0.above", "rules.0.loud"]


def test_value_in_place_of_a_key_is_not_shown(tmp_path: Path) -> None:
    text = changed(f"secret: {SECRET}", f"secret: {SECRET}, secret:{CANARY}")
    (said,) = problems(tmp_path, text)
    assert said.startswith("site.yaml:14: receivers.soc.webhook.?: unknown key")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "site.yaml:1: no settings in it"),
        ("- a\n- b\n", "site.yaml:1: no settings in it"),
        ("cameras:\n  dock: [\n", "site.yaml:3: column 1: this is not YAML"),
        ("cameras: {dock: ${X}\n", "site.yaml:1: column 18: this is not YAML"),
        ("cameras: {dock: [\n", "site.yaml:2: column 1: this is not YAML"),
        ("cameras: {a: 1}\n---\nb: 2\n", "site.yaml:2: column 1: this is not YAML"),
        ("data: 2026-99-99\n", "site.yaml: month must be in 1..12: put what looks like a date"),
    ],
)
def test_what_is_not_settings_is_refused(tmp_path: Path, text: str, told: str) -> None:
    assert problems(tmp_path, text)[0].startswith(told)


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(BadSettings, match="not YAML text"):
        read_settings(file)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"site\.yaml: No such file or directory: name"):
        read_settings(tmp_path / "site.yaml")


def test_variables_are_expanded_and_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD", CANARY)
    monkeypatch.setenv("RATE", "2")
    text = changed(f"{CANARY}@", "$${x}${PASSWORD}@")
    file = tmp_path / "site.yaml"
    file.write_text(text.replace("questions:", "    fps: ${RATE}\nquestions:"))
    camera = read_settings(file).cameras["dock"]
    assert camera.url.get_secret_value() == f"rtsp://guard:${{x}}{CANARY}@10.0.0.21/sub"
    assert camera.fps == 2.0


def test_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(GOOD)
    monkeypatch.setenv("LONGWATCH_CAMERAS__DOCK__FPS", "2")
    monkeypatch.setenv("LONGWATCH_DATA", "/var/lib/longwatch")
    settings = read_settings(file)
    assert settings.cameras["dock"].fps == 2.0
    assert CANARY in settings.cameras["dock"].url.get_secret_value()
    assert settings.data == Path("/var/lib/longwatch")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("LONGWATCH_CAMRAS__DOCK__FPS", "2", "there is no such setting, did you mean cameras?"),
        ("LONGWATCH_CAMERAS_DOCK_FPS", "2", "there is no such setting"),
        ("LONGWATCH_CAMERAS__DOCK__FSP", "2", "cameras.dock.fsp: unknown key, did you mean fps?"),
        ("LONGWATCH_CAMERAS__DOCK__FPS", CANARY, "cameras.dock.fps: write a number"),
    ],
)
def test_misspelt_variable_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    assert problems(tmp_path, GOOD)[0].startswith(f"{name}: {told}")


def test_variable_that_is_no_json_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGWATCH_RULES", f"[{CANARY}")
    (said,) = problems(tmp_path, GOOD)
    assert "LONGWATCH_ variables: one does not contain valid JSON" in said


def test_command_ends_with_2_and_lists_the_errors(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(changed("    above: 0.8", f"    above: {CANARY}\n    loud: true"))
    command = [sys.executable, "-m", "deploy", "validate", "-c", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [f"{file}:10", f"{file}:11"]
    assert CANARY not in done.stderr


def test_nothing_but_findings_is_kept_for_longer_than_incidents(tmp_path: Path) -> None:
    longer = "longer than retention.incidents: shorten it, or lengthen that"
    for key in ("deliveries", "dismissed", "stills"):
        (said,) = problems(tmp_path, GOOD + f"retention: {{incidents: 5d, {key}: 6d}}\n")
        assert said == f"site.yaml:15: retention.{key}: {longer}"
    (said,) = problems(tmp_path, GOOD + "retention: {stills: 401d}\n")
    assert said == f"site.yaml:15: retention.stills: {longer}"
    for good in ("{incidents: 5d}", "{incidents: 5d, findings: 9d, stills: 5d}"):
        file = tmp_path / "good.yaml"
        file.write_text(GOOD + f"retention: {good}\n")
        assert read_settings(file).retention.incidents == timedelta(days=5)


def test_rule_is_not_quiet_for_longer_than_its_incident_is_kept(tmp_path: Path) -> None:
    text = GOOD.replace(ABOVE, f"{ABOVE}quiet: 10d\n    ")
    file = tmp_path / "good.yaml"
    file.write_text(text + "retention: {incidents: 10d}\n")
    assert read_settings(file).rules[0].quiet == timedelta(days=10)
    (said,) = problems(tmp_path, text + "retention: {incidents: 9d}\n")
    assert said.startswith("site.yaml:11: rules.0.quiet: longer than retention.incidents")


def test_bounds_are_told_as_durations(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, GOOD + "memory: {focus_horizon: 0s}\n")
    assert said == "site.yaml:15: memory.focus_horizon: must be at least 1s"
    (said,) = problems(tmp_path, GOOD + "retention: {stills: 1h}\n")
    assert said == "site.yaml:15: retention.stills: must be at least 1d"
    (said,) = problems(tmp_path, GOOD + "route: {rate_limit: 60}\n")
    assert said.startswith("site.yaml:15: route.rate_limit: write it as 60/h")


LIBRARY = re.compile(
    r"datetime\.|pattern|dictionary|instance|validation|valid |input|Settings|function|'"
)


def keys_of(kind: Any, key: SettingKey = ()) -> Iterator[SettingKey]:
    """Yield the key of every setting, for a dict or a list that of one entry."""
    if key:
        yield key
    kind = _unwrap_type(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield from keys_of(field.annotation, (*key, field.alias or name))
    elif get_origin(kind) is dict:
        yield from keys_of(get_args(kind)[-1], (*key, "one"))
    elif get_origin(kind) is list:
        yield from keys_of(get_args(kind)[-1], (*key, 0))


def with_value(key: SettingKey, value: object) -> object:
    for part in reversed(key):
        value = [value] if part == 0 else {part: value}
    return value


@pytest.mark.parametrize("key", sorted(keys_of(LongwatchSettings), key=str), ids=str)
def test_no_error_shows_the_words_of_a_library(tmp_path: Path, key: SettingKey) -> None:
    file = tmp_path / "site.yaml"
    found = list[str]()
    for value in (None, -1, 10**30, "?", "x" * 5000, "0s", [], [1], {"a": 1}):
        file.write_text(json.dumps(with_value(key, value)))
        try:
            read_subset(file, LongwatchSettings)
        except BadSettings as error:
            found += str(error).splitlines()
    told = [each.split(": ", 2)[-1] for each in found]
    ours = [each for each in told if not each.startswith("unknown key")]
    assert [each for each in ours if LIBRARY.search(each)] == []
