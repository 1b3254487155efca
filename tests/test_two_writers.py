"""Two processes that watch one camera, as in a rolling upgrade that starts the new one first."""

import threading
from datetime import timedelta
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from analyzer.kv.budget import MemoryPlan
from analyzer.models.runner import ModelRunner
from analyzer.questions.question import Question
from analyzer.watcher import Watcher
from analyzer.worker import AnalyzerWorker
from kit.ingest.fixtures import GStreamerServer, a_camera, run_camera_worker
from kit.model.small_model import BEGIN, small_runner, window
from kit.waiting import wait_for
from storage.log.memory_log import MemoryLog
from storage.records.claims import covered_span, decode_claim
from storage.records.records import CoverageState
from storage.records.topics import COVERAGE, FINDINGS, WINDOWS
from storage.records.wire import decode_finding, encode_window

QUESTION = Question(
    name="fire",
    ask="Is there a fire?",
    cameras=frozenset(),
    every=timedelta(seconds=16),
    look_back=None,
)


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return small_runner()


def test_windows_that_overlap_are_read_once_and_nothing_is_forgotten(runner: ModelRunner) -> None:
    log = MemoryLog()
    worker = AnalyzerWorker(log, a_watcher(runner), lambda _: None)
    later = BEGIN + timedelta(seconds=5)
    old = [window(n) for n in range(5)]
    new = [window(n, begin=later, after_gap=n == 2) for n in range(2, 7)]
    both = sorted([*old, *new], key=lambda each: each.end)
    for each in both:
        log.append(WINDOWS, "dock", encode_window(each))
    with capture_logs() as lines:
        while worker.run_once(threading.Event()):
            pass
    findings = [decode_finding(entry.value) for entry in log.read(FINDINGS, 0)]
    read = [*old, *new[3:]]
    assert [finding.window_id for finding in findings] == [each.id for each in read]
    remembered = worker.watcher.memory_of("dock").chunks
    assert [chunk.start for chunk in remembered] == [each.start for each in read]
    claims = [decode_claim(entry.value) for entry in log.read(COVERAGE, 0)]
    analysed = [each for each in claims if each.state is CoverageState.ANALYSED]
    assert [(each.start, each.end) for each in analysed] == [
        (covered_span(each).start, covered_span(each).end) for each in read
    ]
    (shed,) = {each.end for each in claims if each.state is CoverageState.SHED} - {
        each.start for each in old
    }
    assert shed == new[3].start, "what neither of them was read of"
    lines_found = [line["count"] for line in lines if "overlaps" in line["event"]]
    assert lines_found == [1, 2]


def test_a_replayed_window_after_a_gap_forgets_nothing(runner: ModelRunner) -> None:
    watcher = a_watcher(runner)
    gap = window(1, after_gap=True)
    watcher.step_all([window(0), gap, gap, window(2)])
    assert len(watcher.memory_of("dock").chunks) == 3


@pytest.mark.slow
def test_camera_whose_new_process_begins_before_the_old_one_ends(
    runner: ModelRunner, rtsp: GStreamerServer
) -> None:
    log, camera = MemoryLog(), a_camera(rtsp.url, stills_per_window=8)
    with run_camera_worker(camera, log) as old:
        wait_for(lambda: len(old.windows) >= 3, 30)
        with run_camera_worker(camera, log) as new:
            wait_for(lambda: len(old.windows) >= 9, 30)
            old.close()
            written = len(new.windows)
            wait_for(lambda: len(new.windows) >= written + 3, 30)
            windows = new.windows
    worker = AnalyzerWorker(log, a_watcher(runner), lambda _: None)
    while worker.run_once(threading.Event()):
        pass
    chunks = worker.watcher.memory_of("dock").chunks
    assert chunks[0].start == windows[0].start, "forgotten"
    assert chunks[-1].end >= windows[-2].end
    gaps = [later.start - earlier.end for earlier, later in pairwise(chunks)]
    length = max(each.end - each.start for each in windows)
    assert timedelta() < max(gaps) < 2 * length
    assert len(chunks) < len(windows), "two processes wrote"


def a_watcher(runner: ModelRunner) -> Watcher:
    return Watcher(runner, [QUESTION], MemoryPlan(horizon=timedelta(minutes=5)))
