"""`longwatch rules test` and `longwatch rules fired`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alerts.rules.replay import next_revisions
from alerts.rules.rule import sample_from_finding
from deploy.backtest.rule_tests import parse_series, run_tests
from deploy.config.assemble import build_rules
from deploy.config.data_dir import database_url
from deploy.config.settings_file import read_settings
from deploy.errors import BadSettings
from kit.deploy.command import Command, run_here  # noqa: F401
from kit.storage.fixtures import a_finding
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.db.rows.findings import FindingStore
from storage.records.records import Finding, Incident, IncidentRevision

SITE = """\
cameras:
  dock: {url: rtsp://10.0.0.21/sub}
questions:
  bag: {ask: "Is there a bag that nobody is with?"}
  pick: {ask: "Is somebody picking something up?"}
rules:
  - {name: bag-left, when: bag, above: 0.8, below: 0.5, for: 32s, keep_firing_for: 16s}
  - {name: forgotten, when: bag, without: pick, within: 2m, above: 0.8}
  - {name: down, health: camera_down, for: 1m}
  - {name: at-night, when: bag, above: 0.8, active: 18:00-06:00 Europe/Berlin}
"""
TESTS = """\
rules: site.yaml
tests:
  - name: a bag is left
    camera: dock
    interval: 16s
    samples:
      bag: "0.1x1 0.9x3 _ 0.2x1"
      pick: "0x11"
    expect:
      - {at: 16s, rule: bag-left, state: none}
      - {at: 32s, rule: bag-left, state: pending}
      - {at: 64s, rule: bag-left, state: open}
      - {at: 112s, rule: bag-left, state: resolved}
      - {at: 2m32s, rule: forgotten, state: pending}
      - {at: 2m33s, rule: forgotten, state: open}
  - name: by night alone
    camera: dock
    interval: 10m
    start: 2026-11-23T16:30:00Z
    samples: {bag: "0.9x9"}
    expect:
      - {at: 20m, rule: at-night, state: none}
      - {at: 2026-11-23T17:00:00Z, rule: at-night, state: open}
  - name: the camera is lost
    camera: dock
    interval: 30s
    samples: {health/camera_down: "0 1x3"}
    expect:
      - {at: 1m, rule: down, state: pending}
      - {at: 1m30s, rule: down, state: open}
"""


@pytest.fixture(name="folder")
def make_folder(tmp_path: Path) -> Path:
    (tmp_path / "site.yaml").write_text(SITE)
    (tmp_path / "tests.yaml").write_text(TESTS)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.9", (0.9,)),
        ("0.9x3", (0.9,) * 4),
        ("0.1x1 0.9", (0.1, 0.1, 0.9)),
        ("0.1+0.2x3", (0.1, 0.3, 0.5, 0.7)),
        ("1-0.5x2", (1.0, 0.5, 0.0)),
        ("_ 1 _x2 0", (None, 1.0, None, None, 0.0)),
        ("0.5x0", (0.5,)),
    ],
)
def test_samples_are_written_as_promtool_does(
    text: str, expected: tuple[float | None, ...]
) -> None:
    assert parse_series(text) == expected


@pytest.mark.parametrize(
    "text", ["", "high", "0.1+0.2", "x3", "0.9 x3", "-1", "2", "0.5+0.5x2", "1x999999", 0.5, "1e3"]
)
def test_what_are_no_samples_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"write|score"):
        parse_series(text)


def test_rules_do_as_the_tests_expect(folder: Path) -> None:
    outcomes = run_tests(folder / "tests.yaml")
    assert len(outcomes) == 10
    assert [each for each in outcomes if not each.passed] == []


def test_command_shows_what_was_expected_and_what_it_was(folder: Path, command: Command) -> None:
    file = folder / "tests.yaml"
    done = command("rules", "test", file)
    assert (done.returncode, "10 of 10 as expected" in done.stdout) == (0, True)
    file.write_text(
        TESTS.replace(
            "{at: 64s, rule: bag-left, state: open}", "{at: 64s, rule: bag-left, state: pending}"
        )
    )
    done = command("rules", "test", file)
    assert done.returncode == 1
    (failed,) = [line for line in done.stdout.splitlines() if "FAILED" in line]
    assert failed.replace("│", " ").split()[-4:] == [
        "bag-left",
        "pending",
        "open",
        "FAILED",
    ]
    done = command("rules", "test", file, "--json")
    output = json.loads(done.stdout)
    assert (done.returncode, output["passed"]) == (1, False)
    assert [each for each in output["results"] if not each["passed"]] == [
        {
            "test": "a bag is left",
            "at": "1m4s",
            "rule": "bag-left",
            "expected": "pending",
            "got": "open",
            "passed": False,
        }
    ]


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("    interval: 16s", "    interval: 16", 5, "tests.0.interval: write a duration as"),
        ("    interval: 16s", "    interval: 0s", 5, "tests.0.interval: must be more than 0s"),
        ("    interval: 16s", "    intrval: 16s", 5, "tests.0.intrval: unknown key, did you mean"),
        ('bag: "0.1x1 0.9x3 _ 0.2x1"', "bag: high", 7, 'tests.0.samples.bag: write it as "0.1x4'),
        ('pick: "0x11"', 'pack: "0x11"', 8, "tests.0.samples.pack: no question is called 'pack'"),
        ("{at: 16s, rule: bag-left", "{at: 16s, rule: bug", 10, "tests.0.expect.0.rule: no rule"),
        ("{at: 16s, rule: bag-left", "{at: soon, rule: bag-left", 10, "tests.0.expect.0.at: write"),
        ("left\n    camera: dock", "left\n    camera: doc", 4, "tests.0.camera: no camera is"),
        ("state: none}\n      - {at: 32s", "state: on}\n      - {at: 32s", 10, "tests.0.expect.0"),
    ],
)  # fmt: skip
def test_bad_tests_name_file_line_and_key(
    folder: Path, old: str, new: str, line: int, told: str
) -> None:
    file = folder / "tests.yaml"
    assert TESTS.count(old) == 1
    file.write_text(TESTS.replace(old, new))
    with pytest.raises(BadSettings) as refused:
        run_tests(file)
    assert any(
        each.startswith(f"{file}:{line}: {told}") for each in str(refused.value).splitlines()
    ), str(refused.value)


def test_settings_that_cannot_be_used_are_told_of(folder: Path) -> None:
    (folder / "site.yaml").write_text(SITE.replace("above: 0.8, below", "above: 0.1, below"))
    with pytest.raises(BadSettings, match=r"site.yaml:7: rules.0.below: below must not"):
        run_tests(folder / "tests.yaml")


def stored(folder: Path) -> list[Finding]:
    """Keep findings of two alarms, and the incidents that the rules made of them."""
    scores = [0.1, 0.9, 0.9, 0.9, 0.1, 0.1, 0.7, 0.7, 0.7, 0.7, 0.1, 0.1]
    findings = [a_finding(n, score) for n, score in enumerate(scores)]
    (rule, *_) = build_rules(read_settings(folder / "site.yaml"))
    (folder / "data").mkdir(exist_ok=True)
    store = AlertStore(open_database(database_url(folder / "data")))
    with store.transaction() as transaction:
        transaction.insert_findings(findings)
        latest: Incident | None = None
        for finding in findings:
            for after in next_revisions(rule, latest, sample_from_finding(finding)):
                transaction.save_revisions([IncidentRevision(incident=after, who="rule")])
                latest = after
    return findings


def listed_results(done: Any) -> list[tuple[str, str | None, str | None]]:
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    return [
        (row["told"], (row["would"] or {}).get("opened_at"), (row["did"] or {}).get("id"))
        for row in rows
    ]


def test_changed_rule_shows_what_it_would_have_made_of_stored_findings(
    folder: Path, command: Command
) -> None:
    findings = stored(folder)
    site = folder / "site.yaml"
    words = ("rules", "fired", "-c", site, "--rule", "bag-left", "--json")
    ((same, opened, did),) = listed_results(command(*words))
    assert (same, opened) == ("would, too", findings[3].end.isoformat())

    site.write_text(SITE.replace("above: 0.8, below: 0.5", "above: 0.6, below: 0.5"))
    first, second = listed_results(command(*words))
    assert first == (same, opened, did)
    assert second == ("would be new", findings[8].end.isoformat(), None)

    site.write_text(SITE.replace("above: 0.8, below: 0.5", "above: 0.95, below: 0.5"))
    assert listed_results(command(*words)) == [("would not", None, did)]

    late = findings[5].end.isoformat()
    assert listed_results(command(*words, "--since", late)) == []
    assert listed_results(command(*words, "--until", findings[0].end.isoformat())) == []


def test_table_of_what_would_have_fired(folder: Path, command: Command) -> None:
    stored(folder)
    shown = command("rules", "fired", "-c", folder / "site.yaml", "--data", folder / "data").stdout
    rows = [line.replace("│", " ").split() for line in shown.splitlines() if "dock" in line]
    assert [row[0] for row in rows] == ["at-night", "bag-left", "forgotten"][-len(rows) :]
    shown = command("rules", "fired", "-c", folder / "site.yaml", "--since", "2027-01-01").stdout
    assert shown.strip() == "nothing fired, and nothing would have"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--rule", "bug"), 2, "--rule: no rule about questions is called 'bug' (known: at-night"),
        (("--rule", "down"), 2, "--rule: no rule about questions is called 'down'"),
        (("--since", "soon"), 2, "--since: write it as 2026-11-22T18:00:00+01:00"),
        (("--data", "nowhere"), 1, "nowhere contains no longwatch.db"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    folder: Path, command: Command, words: tuple[str, ...], code: int, said: str
) -> None:
    done = command("rules", "fired", "-c", folder / "site.yaml", *words)
    assert (done.returncode, done.stderr.startswith(said)) == (code, True), done.stderr


def test_findings_are_read_in_order_of_time_page_by_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = stored(folder)
    engine = open_database(database_url(folder / "data"))
    twins = [replace(each, question="pick") for each in findings]
    with AlertStore(engine).transaction() as transaction:
        transaction.insert_findings(twins)
    monkeypatch.setattr("storage.db.rows.findings._PAGE_SIZE", 5)
    store = FindingStore(engine)
    read = list(store.between(None, None))
    assert sorted(read, key=lambda each: (each.end, each.id)) == read
    assert {each.id for each in read} == {each.id for each in (*findings, *twins)}
    assert len(read) == 24
    some = list(store.between(findings[2].end, findings[4].end))
    assert [each.end for each in some] == [findings[n].end for n in (2, 2, 3, 3)]
