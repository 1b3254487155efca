"""`longwatch rules`: test rules, and replay them over stored findings."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.common import (
    ConfigOption,
    DataOption,
    JsonOption,
    format_instant,
    parse_instant,
    show,
)
from deploy.cli.store import DataOptions, Store, open_store
from deploy.errors import BadSettings

if TYPE_CHECKING:
    from rich.table import Table

    from deploy.backtest.replay import ReplayComparison
    from deploy.backtest.rule_tests import RuleTestResult
    from storage.records.records import Incident

rules = typer.Typer(no_args_is_help=True, help="Test rules, and replay them over stored findings.")


TEST_HELP = """Test rules against a table of answers; exit 1 if a result is unexpected.

\b
rules: longwatch.yaml          # the settings with the rules, relative to this file
tests:
  - name: a bag is left
    camera: dock
    interval: 16s              # from one answer to the next
    samples:
      unattended_bag: "0.1x4 0.9x9 _x2 0.2"
    expect:
      - {at: 1m20s, rule: bag-left, state: pending}

Samples are written as for promtool: 0.9 once, 0.9x3 and three more, 0.1+0.2x3 and three
more, each greater by 0.2; _ and _x3 are missing. A key health/camera_down stands for the
coverage of the camera. `start: 2026-11-23T18:00:00Z` is the time of the first sample.
`at` is a time since then, or an instant; `state` is none, pending, open, resolved or
dismissed: that of the newest incident at that time.
"""


@rules.command("test", help=TEST_HELP)
def run_test(
    file: Annotated[Path, typer.Argument(help="A file of tests (YAML).")],
    as_json: JsonOption = False,
) -> None:
    """Test rules against a table of answers; exit 1 if a result is unexpected."""
    from deploy.backtest.rule_tests import run_tests

    outcomes = run_tests(file)
    failed = [each for each in outcomes if not each.passed]
    if as_json:
        show({"passed": not failed, "results": [_outcome_fields(each) for each in outcomes]})
    else:
        show(_outcomes_table(outcomes))
        show(f"{len(outcomes) - len(failed)} of {len(outcomes)} as expected")
    if failed:
        raise typer.Exit(1)


@rules.command("fired")
def show_fired(
    *,
    config: ConfigOption,
    data: DataOption = None,
    rule: Annotated[str | None, typer.Option(help="The name of one rule. Default: all.")] = None,
    since: Annotated[str | None, typer.Option(help="The start (ISO 8601).")] = None,
    until: Annotated[str | None, typer.Option(help="The end (ISO 8601).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Replay rules over the stored findings, and compare the incidents with the recorded ones.

    Health rules are left out: they read no findings.
    """
    from deploy.config.partial_settings import RulesSubset
    from deploy.config.settings import rule_contradictions, unknown_name
    from deploy.config.settings_file import read_subset

    settings = read_subset(config, RulesSubset, rule_contradictions)
    names = {each.name for each in settings.rules if each.health is None}
    if rule is not None and rule not in names:
        raise BadSettings(f"--rule: {unknown_name('rule about questions', rule, names)}")
    start_at = None if since is None else parse_instant("--since", since)
    end_at = None if until is None else parse_instant("--until", until)
    with open_store(DataOptions(None if data else config, data)) as store:
        found = _compare(settings, store, {rule} if rule else names, start_at, end_at)
    if as_json:
        show([_compared_fields(each) for each in found])
    else:
        show(_compared_table(found) if found else "nothing fired, and nothing would have")


def _compare(
    settings: Any, store: Store, names: set[str], since: datetime | None, until: datetime | None
) -> "list[ReplayComparison]":
    from deploy.backtest.replay import compare_incidents, replay_rules
    from deploy.config.assemble import build_rules

    chosen = [each for each in build_rules(settings) if each.name in names]
    recorded = [
        incident
        for incident in store.incidents.incidents()[::-1]
        if incident.rule in names
        and (since is None or incident.last_seen_at >= since)
        and (until is None or incident.first_seen_at < until)
    ]
    return compare_incidents(replay_rules(chosen, store.findings.between(since, until)), recorded)


def _outcome_fields(each: "RuleTestResult") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(each) | {"passed": each.passed}


def _outcomes_table(outcomes: "Sequence[RuleTestResult]") -> "Table":
    from rich.table import Table

    table = Table("test", "at", "rule", "expected", "got", "")
    for each in outcomes:
        verdict = "as expected" if each.passed else "FAILED"
        table.add_row(each.test, each.at, each.rule, each.expected, each.got, verdict)
    return table


def _compared_fields(each: "ReplayComparison") -> dict[str, Any]:
    from storage.records.wire import incident_fields

    return {
        "told": each.verdict,
        "would": each.replayed and incident_fields(each.replayed),
        "did": each.recorded and incident_fields(each.recorded),
    }


def _compared_table(comparisons: "Sequence[ReplayComparison]") -> "Table":
    from rich.table import Table

    table = Table("rule", "camera", "would open", "would close", "", "id", "opened", "closed")
    for each in comparisons:
        replayed, recorded, incident = each.replayed, each.recorded, each.incident
        id = str(recorded.id)[:8] if recorded else "-"
        table.add_row(
            incident.rule,
            incident.camera,
            *_format_times(replayed),
            each.verdict,
            id,
            *_format_times(recorded),
        )
    return table


def _format_times(incident: "Incident | None") -> tuple[str, str]:
    if incident is None:
        return "-", "-"
    return format_instant(incident.opened_at), format_instant(incident.closed_at)
