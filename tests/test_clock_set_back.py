"""A window says that the clock of its stills went back before it: the memory begins anew."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from analyzer.kv.budget import MemoryPlan
from analyzer.models.runner import ModelRunner
from analyzer.watcher import Watcher
from analyzer.worker import AnalyzerWorker
from kit.model.small_model import BEGIN, small_runner, window
from storage.log.memory_log import MemoryLog
from storage.records.records import Finding, Window, YesNoAnswer
from storage.records.topics import FINDINGS, WINDOWS
from storage.records.wire import decode_finding, decode_window, encode_window
from test_watcher import question

STEPS = [3.0, 8.0, 15.0, 40.0, 90.0, 7200.0]
"""Seconds: within the last window, within what is remembered, and before it."""


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return small_runner()


def a_watcher(runner: ModelRunner) -> Watcher:
    return Watcher(runner, [question()], MemoryPlan(horizon=timedelta(minutes=5)))


def set_back(by: float, count: int = 3, after: int = 5) -> list[Window]:
    """Return what follows `after` windows once the clock went back by so many seconds."""
    begin = BEGIN - timedelta(seconds=by)
    later = [window(after + nth, begin=begin) for nth in range(count)]
    return [replace(later[0], after_gap=True, is_set_back=True), *later[1:]]


def remembered(watcher: Watcher) -> list[str]:
    return [
        f"dock@{c.start.isoformat(timespec='milliseconds')}"
        for c in watcher.memory_of("dock").chunks
    ]


def ids(windows: Sequence[Window]) -> list[str]:
    return [each.id for each in windows]


def step_each(watcher: Watcher, windows: Sequence[Window]) -> list[Finding]:
    return [finding for each in windows for finding in watcher.step(each)]


def step_together(watcher: Watcher, windows: Sequence[Window]) -> list[Finding]:
    return [finding for each in watcher.step_all(windows) for finding in each.findings]


def test_the_flag_is_on_the_wire_where_it_is_set_and_nowhere_else() -> None:
    plain, back = window(), replace(window(), is_set_back=True)
    assert b"is_set_back" not in encode_window(plain)
    assert decode_window(encode_window(plain)) == plain
    assert decode_window(encode_window(back)) == back


@pytest.mark.parametrize("step", [step_each, step_together], ids=["each", "together"])
@pytest.mark.parametrize("by", STEPS)
def test_memory_runs_and_schedule_begin_anew_where_time_was_set_back(
    runner: ModelRunner, by: float, step: object
) -> None:
    watcher, before, after = a_watcher(runner), [window(n) for n in range(5)], set_back(by)
    assert callable(step)
    with capture_logs() as lines:
        findings = step(watcher, [*before, *after])
    assert [each.window_id for each in findings] == ids([*before, *after])
    assert remembered(watcher) == ids(after)
    assert [each.memory_span for each in findings[5:]] == [15, 31, 47]
    assert all(after[0].start <= each.since <= each.end for each in findings[5:])
    lines_found = [line for line in lines if "set back" in line["event"]]
    assert [(line["camera"], line["log_level"]) for line in lines_found] == [("dock", "warning")]
    assert not [line for line in lines if "overlaps" in line["event"]]


@pytest.mark.parametrize("by", STEPS)
def test_replay_of_windows_after_a_step_back_changes_nothing(
    runner: ModelRunner, by: float
) -> None:
    watcher, after = a_watcher(runner), set_back(by)
    step_each(watcher, [*(window(n) for n in range(5)), *after])
    assert step_each(watcher, after) == step_together(watcher, after) == []
    assert remembered(watcher) == ids(after)


@pytest.mark.parametrize("by", [16.0, 40.0])
def test_window_within_what_is_remembered_is_a_replay_without_the_flag(
    runner: ModelRunner, by: float
) -> None:
    watcher, before = a_watcher(runner), [window(n) for n in range(5)]
    late = replace(set_back(by, 1)[0], is_set_back=False)
    step_each(watcher, before)
    assert step_each(watcher, [late]) == []
    assert remembered(watcher) == ids(before)


@pytest.mark.parametrize("by", STEPS)
def test_memory_is_the_same_after_a_restart(runner: ModelRunner, by: float) -> None:
    log = [*(window(n) for n in range(5)), *set_back(by)]
    lived, together, apart = a_watcher(runner), a_watcher(runner), a_watcher(runner)
    step_each(lived, log)
    assert together.restore(log) == [None] * len(log)
    for each in log:
        apart.restore([each])
    assert remembered(lived) == remembered(together) == remembered(apart)


def test_step_back_that_is_set_back_again_is_followed(runner: ModelRunner) -> None:
    watcher = a_watcher(runner)
    twice = [*set_back(40.0, 2), *set_back(90.0, 2)]
    step_each(watcher, [*(window(n) for n in range(5)), *twice])
    assert remembered(watcher) == ids(twice[2:])


def test_a_run_of_answers_does_not_reach_back_over_the_step(runner: ModelRunner) -> None:
    watcher = a_watcher(runner)
    for answer in YesNoAnswer:
        past = replace(
            step_each(a_watcher(runner), [window()])[0],
            answer=answer,
            since=BEGIN - timedelta(hours=1),
        )
        watcher.restore_finding(past)
    step_each(watcher, [window(n) for n in range(5)])
    first, *_ = step_each(watcher, set_back(40.0))
    assert first.since == first.start


def test_windows_behind_a_step_back_that_was_shed_are_read(runner: ModelRunner) -> None:
    log = MemoryLog()
    worker = AnalyzerWorker(log, a_watcher(runner), lambda _: None)
    before, after = [window(n) for n in range(5)], set_back(40.0)
    for each in before:
        log.append(WINDOWS, "dock", encode_window(each))
    while worker.run_once(threading.Event()):
        pass
    for each in after:
        log.append(WINDOWS, "dock", encode_window(each))
    assert worker._step_overloaded(threading.Event(), worker._fetch()) == len(after)
    findings = [decode_finding(entry.value) for entry in log.read(FINDINGS, 0)]
    assert [each.window_id for each in findings] == ids([*before, after[-1]])
    assert remembered(worker.watcher) == ids(after[-1:])
