"""Windows in, findings out: which questions are asked when, and what a finding says."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import BEGIN, small_speaker, window

from analyzer.agenda import Agenda
from analyzer.questions import Question
from analyzer.videoxl2.speaker import Speaker
from analyzer.watcher import Watcher
from analyzer.worker import READER, AnalyzerWorker
from storage.errors import StorageFull
from storage.log import DEAD, FINDINGS, WINDOWS, MemoryLog
from storage.records import Answer, Finding, Still, Window
from storage.wire import decode_dead, decode_finding, encode_window


def question(name: str = "fire", **changes: Any) -> Question:
    told: dict[str, Any] = {
        "ask": "Is there a fire?",
        "cameras": frozenset(),
        "every": timedelta(seconds=16),
        "look_back": None,
    }
    return Question(name=name, **{**told, **changes})


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return small_speaker()


def watcher(speaker: Speaker, *questions: Question) -> Watcher:
    return Watcher(speaker, questions or [question()], timedelta(seconds=64))


def run(watcher: Watcher, windows: Iterator[Window] | list[Window]) -> list[Finding]:
    return [finding for w in windows for finding in watcher.step(w)]


def test_every_window_is_answered(speaker: Speaker) -> None:
    findings = run(watcher(speaker), [window(n) for n in range(6)])
    assert [f.window_id for f in findings] == [window(n).id for n in range(6)]
    assert [f.memory_span for f in findings] == [15, 31, 47, 63, 63, 63]
    assert {f.model for f in findings} == {"small@0"}
    assert all((f.answer is Answer.YES) == (f.score > 0.5) for f in findings)


def test_a_replayed_window_is_passed_over(speaker: Speaker) -> None:
    watching = watcher(speaker)
    assert len(run(watching, [window(0), window(1), window(0), window(1)])) == 2


def test_time_set_back_starts_an_empty_memory(speaker: Speaker) -> None:
    watching = watcher(speaker)
    run(watching, [window(n) for n in range(3)])
    earlier = window(begin=BEGIN - timedelta(hours=2), after_gap=True)
    (finding,) = run(watching, [earlier])
    assert finding.memory_span == 15
    assert finding.since == earlier.start


def test_cameras_do_not_see_each_other(speaker: Speaker) -> None:
    alone = run(watcher(speaker), [window(n) for n in range(3)])
    mixed = watcher(speaker)
    others = [window(n, camera="gate", shades=(0, 255, 90)) for n in range(3)]
    both = [w for pair in zip(others, [window(n) for n in range(3)], strict=True) for w in pair]
    together = [f for f in run(mixed, both) if f.camera == "dock"]
    assert [f.margin for f in together] == [f.margin for f in alone]


def test_questions_packed_with_others_answer_the_same(speaker: Speaker) -> None:
    near = question("bag", ask="Is there an abandoned bag?", look_back=timedelta(seconds=16))
    windows = [window(n) for n in range(3)]
    alone = [f.margin for f in run(watcher(speaker, near), windows)]
    together = run(watcher(speaker, question(), near, question("crowd")), windows)
    packed = [f for f in together if f.question == "bag"]
    assert [f.margin for f in packed] == pytest.approx(alone, abs=1e-4)
    assert {f.memory_span for f in packed} <= {15, 16}


def test_since_is_the_start_of_the_run(speaker: Speaker) -> None:
    findings = run(watcher(speaker), [window(n) for n in range(4)])
    for before, after in pairwise(findings):
        kept = before.answer is after.answer
        assert after.since == (before.since if kept else after.start)


def test_a_question_concerns_its_cameras_only() -> None:
    agenda = Agenda([question(cameras=frozenset({"gate"}))])
    assert not agenda.due(window(0))
    assert agenda.due(window(0, camera="gate"))


@settings(max_examples=60, deadline=None)
@given(every=st.integers(1, 200), late=st.lists(st.floats(-0.4, 0.4), min_size=60, max_size=60))
def test_questions_keep_their_pace_in_stream_time(every: int, late: list[float]) -> None:
    """Over a long stream a question is asked as often as it can be, jitter or not."""
    agenda = Agenda([question(every=timedelta(seconds=every))])
    asked = 0
    for nth, jitter in enumerate(late):
        asked += len(agenda.due(jittered(nth, jitter)))
    windows_apart = max(1.0, every / 16)
    assert abs(asked - 60 / windows_apart) <= 1.5


def jittered(nth: int, late: float) -> Window:
    begin = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=16 * nth + late)
    stills = tuple(
        Still(at=begin + timedelta(seconds=s), jpeg=b"", width=1, height=1) for s in (0, 15)
    )
    return Window(camera="dock", stills=stills, clock=window(0).clock, after_gap=False)


def worker(speaker: Speaker, log: MemoryLog) -> AnalyzerWorker:
    return AnalyzerWorker(log, watcher(speaker), promise=lambda seconds: None)


def test_findings_reach_the_log_before_the_window_is_committed(speaker: Speaker) -> None:
    log = MemoryLog()
    for nth in range(3):
        log.append(WINDOWS, "dock", encode_window(window(nth)))
    assert worker(speaker, log).run_once(threading.Event()) == 3
    findings = [decode_finding(entry.value) for entry in log.read(FINDINGS, 0)]
    assert [f.window_id for f in findings] == [window(n).id for n in range(3)]
    assert log.committed(READER, WINDOWS) == 3


def test_an_unreadable_window_is_set_aside_and_the_next_is_read(speaker: Speaker) -> None:
    log = MemoryLog()
    bad = window(0)
    torn = Still(at=bad.stills[0].at, jpeg=bad.stills[0].jpeg[:40], width=96, height=64)
    half = Window(camera="dock", stills=(torn, *bad.stills[1:]), clock=bad.clock, after_gap=False)
    log.append(WINDOWS, "dock", b"nonsense", encode_window(half), encode_window(window(1)))
    assert worker(speaker, log).run_once(threading.Event()) == 3
    dead = [decode_dead(entry.value) for entry in log.read(DEAD, 0)]
    assert [(d.position, d.value) for d in dead] == [(0, b"nonsense"), (1, encode_window(half))]
    assert len(log.read(FINDINGS, 0)) == 1


class FullFor(MemoryLog):
    """A log whose disk is full for the first few appends of findings."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def append(self, topic: str, key: str, *values: bytes) -> int:
        if topic == FINDINGS and self.times:
            self.times -= 1
            raise StorageFull("here")
        return super().append(topic, key, *values)


def test_findings_wait_for_a_full_disk(speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyzer.worker.FULL", 0.01)
    log = FullFor(3)
    log.append(WINDOWS, "dock", encode_window(window(0)), encode_window(window(1)))
    assert worker(speaker, log).run_once(threading.Event()) == 2
    assert len(log.read(FINDINGS, 0)) == 2


def test_a_step_that_is_stopped_commits_nothing(speaker: Speaker) -> None:
    log, stop = FullFor(1000), threading.Event()
    log.append(WINDOWS, "dock", encode_window(window(0)))
    stop.set()
    assert worker(speaker, log).run_once(stop) == 0
    assert log.committed(READER, WINDOWS) == 0
