"""The commands about rules: `longwatch rules test` and `longwatch rules fired`."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.console import AsJson, Config, MaybeData, instant, show, time_text
from deploy.errors import BadSettings
from deploy.store import Store, open_store

if TYPE_CHECKING:
    from rich.table import Table

    from deploy.rules_fired import Compared
    from deploy.rules_test import Outcome
    from storage.records import Incident

rules = typer.Typer(no_args_is_help=True, help="Try rules before they matter.")


TEST_HELP = """Test rules against a table of answers; exit 1 where one is not as expected.

\b
rules: longwatch.yaml          # the settings whose rules are tested, seen from this file
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
coverage of the camera. `start: 2026-11-23T18:00:00Z` sets the time of the first sample.
`at` is a time since then, or an instant; `state` is none, pending, open, resolved or
dismissed: that of the newest incident at that time.
"""


@rules.command("test", help=TEST_HELP)
def run_test(
    file: Annotated[Path, typer.Argument(help="A file of tests (YAML).")], as_json: AsJson = False
) -> None:
    """Test rules against a table of answers; exit 1 where one is not as expected."""
    from deploy.rules_test import run_tests

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
    config: Config,
    data: MaybeData = None,
    rule: Annotated[str | None, typer.Option(help="One rule alone, by its name.")] = None,
    since: Annotated[str | None, typer.Option(help="From when on (ISO 8601).")] = None,
    until: Annotated[str | None, typer.Option(help="Up to when (ISO 8601).")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what these rules would have made of the stored findings, next to what there is.

    Health rules are left out: they look at no findings.
    """
    from deploy.config_file import read_part
    from deploy.parts import RulesPart
    from deploy.settings import rule_contradictions

    settings = read_part(config, RulesPart, rule_contradictions)
    names = {each.name for each in settings.rules if each.health is None}
    if rule is not None and rule not in names:
        known = ", ".join(sorted(names)) or "there is none"
        raise BadSettings(f"--rule: no rule about questions is called {rule!r} (known: {known})")
    began = None if since is None else instant("--since", since)
    ended = None if until is None else instant("--until", until)
    with open_store(None if data else config, data) as store:
        found = _compare(settings, store, {rule} if rule else names, began, ended)
    if as_json:
        show([_compared_fields(each) for each in found])
    else:
        show(_compared_table(found) if found else "nothing fired, and nothing would have")


def _compare(
    settings: Any, store: Store, names: set[str], since: datetime | None, until: datetime | None
) -> "list[Compared]":
    from deploy.assemble import rules_of
    from deploy.rules_fired import compare, fired

    chosen = [each for each in rules_of(settings) if each.name in names]
    did = [
        incident
        for incident in store.incidents.incidents()[::-1]
        if incident.rule in names
        and (since is None or incident.last_seen_at >= since)
        and (until is None or incident.first_seen_at < until)
    ]
    return compare(fired(chosen, store.findings.between(since, until)), did)


def _outcome_fields(each: "Outcome") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(each) | {"passed": each.passed}


def _outcomes_table(outcomes: "Sequence[Outcome]") -> "Table":
    from rich.table import Table

    table = Table("test", "at", "rule", "expected", "got", "")
    for each in outcomes:
        verdict = "as expected" if each.passed else "FAILED"
        table.add_row(each.test, each.at, each.rule, each.expected, each.got, verdict)
    return table


def _compared_fields(each: "Compared") -> dict[str, Any]:
    from storage.wire import incident_fields

    return {
        "told": each.told,
        "would": each.would and incident_fields(each.would),
        "did": each.did and incident_fields(each.did),
    }


def _compared_table(found: "Sequence[Compared]") -> "Table":
    from rich.table import Table

    table = Table("rule", "camera", "would open", "would close", "", "id", "opened", "closed")
    for each in found:
        would, did, one = each.would, each.did, each.either
        id = str(did.id)[:8] if did else "-"
        table.add_row(one.rule, one.camera, *_times(would), each.told, id, *_times(did))
    return table


def _times(incident: "Incident | None") -> tuple[str, str]:
    if incident is None:
        return "-", "-"
    return time_text(incident.opened_at), time_text(incident.closed_at)
