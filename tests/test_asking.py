"""What a person asks once: what the reply says, and that nothing else changes by it."""

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import nan
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import torch

from analyzer import asking
from analyzer.intake.requests import REPLIES_AT_ONCE
from analyzer.kv import focus
from analyzer.kv.arena.arena import AnyChunk
from analyzer.kv.budget import MemoryPlan
from analyzer.kv.int8 import Int8Chunk
from analyzer.kv.memory import UNLIMITED, Memory
from analyzer.models.messages import ScoreInput, YesNoScores
from analyzer.models.runner import ModelRunner
from analyzer.questions.question import Question
from analyzer.watcher import Watcher
from analyzer.worker import GROUP, AnalyzerWorker
from analyzer.zones import Zone, zones_of
from deploy.cli.ask_client import ask
from deploy.cli.render.reply import reply_lines
from deploy.config.data_dir import LOG_FILE
from deploy.demo import camera_server
from deploy.errors import CommandFailed
from kit.deploy.command import Command, longwatch, run_longwatch
from kit.ingest.fixtures import free_port
from kit.model.small_model import small_runner, window
from kit.model.videoxl2 import videoxl2_of
from kit.waiting import wait_for
from storage.errors import StorageFull
from storage.log.log import Log
from storage.log.memory_log import MemoryLog
from storage.log.retention import DEFAULT_RETENTION
from storage.log.sqlite.log import SqliteLog
from storage.records.queries import QueryReply, QueryRequest
from storage.records.query_wire import decode_reply, encode_reply, encode_request
from storage.records.records import TimeSpan, YesNoAnswer
from storage.records.topics import FINDINGS, REPLIES, REQUESTS, WINDOWS
from storage.records.wire import encode_window
from test_deploy_cli import filmed_camera

ASK = "Is there a fire?"
LONG = timedelta(minutes=10)
PLAN = MemoryPlan(horizon=LONG, focus_horizon=LONG, recent=2, focus=2)


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return small_runner()


def a_watcher(runner: ModelRunner, windows: int, plan: MemoryPlan = PLAN) -> Watcher:
    """Return a watcher with a standing question that has seen so many windows of a dock."""
    standing = Question(
        name="bag",
        ask="Is there an abandoned bag?",
        cameras=frozenset(),
        every=timedelta(seconds=16),
        look_back=None,
    )
    watcher = Watcher(runner, [standing], plan)
    for nth in range(windows):
        list(watcher.step(window(nth, shades=(10 * nth, 200, 30, 90))))
    return watcher


def a_request(
    ask: str = ASK,
    camera: str = "dock",
    look_back: timedelta | None = None,
    seconds: float = 30.0,
    in_words: bool = False,
    zone: str | None = None,
) -> QueryRequest:
    return QueryRequest(
        id=uuid4(),
        camera=camera,
        ask=ask,
        look_back=look_back,
        expires_at=datetime.now(UTC) + timedelta(seconds=seconds),
        in_words=in_words,
        zone=zone,
    )


YARD, GATE = zones_of(
    {
        "yard": ((0.2, 0.2), (0.8, 0.2), (0.8, 0.8)),
        "gate": ((0.5, 0.1), (0.9, 0.1), (0.9, 0.9)),
    }
)


def zoned_watcher(runner: ModelRunner, windows: int, *zones: Zone) -> Watcher:
    """Return one that is asked the same about zones of the dock, and has seen windows of it."""
    standing = [
        Question(
            name=f"in-{zone.name}",
            ask=ASK,
            cameras=frozenset(),
            every=timedelta(seconds=16),
            look_back=timedelta(seconds=64),
            zone=zone.name,
            zones={"dock": zone},
        )
        for zone in zones
    ]
    watcher = Watcher(runner, standing, PLAN)
    for nth in range(windows):
        list(watcher.step(window(nth)))
    return watcher


def test_answer_about_a_zone_is_the_one_that_a_standing_question_would_get(
    runner: ModelRunner,
) -> None:
    watcher = zoned_watcher(runner, 6, YARD, GATE)
    findings = {finding.zone: finding for finding in watcher.step(window(6))}
    look_back = timedelta(seconds=64)
    told = {
        zone: asking.reply(watcher, a_request(look_back=look_back, zone=zone))
        for zone in (None, "yard", "gate")
    }
    for zone in ("yard", "gate"):
        assert told[zone].margin == pytest.approx(findings[zone].margin, abs=1e-4)
    assert len({round(each.margin or 0.0, 5) for each in told.values()}) == 3


def test_zone_that_is_not_outlined_is_refused_with_those_that_are(runner: ModelRunner) -> None:
    watcher, plain = zoned_watcher(runner, 2, YARD), a_watcher(runner, 2)
    with knowing_outlines(runner):
        reply = asking.reply(watcher, a_request(zone="gate"))
        assert reply.refused == (
            "zone gate is not outlined on the stills of dock: give a standing question this"
            " zone, or ask about yard"
        )
        bare = asking.reply(plain, a_request(zone="gate")).refused
    assert bare is not None
    assert bare.endswith("dock: give a standing question this zone")
    taught = asking.reply(watcher, a_request(zone="gate")).refused
    assert taught == "this model was not taught zones: ask without --zone, or choose another model"


def test_refusal_of_a_zone_can_be_sent_however_long_the_names_are(runner: ModelRunner) -> None:
    zones = zones_of({letter * 64: YARD.corners for letter in "abcdef"})
    watcher = zoned_watcher(runner, 0, *zones)
    watcher.zones["d" * 64] = watcher.zones["dock"]
    list(watcher.step(window(0, "d" * 64)))
    with knowing_outlines(runner):
        reply = asking.reply(watcher, a_request(camera="d" * 64, zone="z" * 64))
    assert reply.refused is not None
    assert decode_reply(encode_reply(reply)) == reply


def test_question_about_a_zone_may_be_as_long_as_any_other(runner: ModelRunner) -> None:
    watcher = zoned_watcher(runner, 2, YARD)
    for count in (asking.MAX_QUESTION_LENGTH, asking.MAX_QUESTION_LENGTH + 1):
        reply = asking.reply(watcher, a_request("x" * count, zone="yard"))
        assert (f"has {count} characters" in str(reply.refused)) is (
            count > asking.MAX_QUESTION_LENGTH
        )


@contextmanager
def knowing_outlines(runner: ModelRunner) -> Iterator[None]:
    """Make a model one that was taught what an outline is."""
    model = videoxl2_of(runner)
    config = model.config
    model.config = replace(config, stem="patch")
    try:
        yield
    finally:
        model.config = config


def spans(watcher: Watcher, *numbers: int) -> tuple[TimeSpan, ...]:
    chunks = watcher.memory_of("dock").chunks
    return tuple(TimeSpan(start=chunks[nth].start, end=chunks[nth].end) for nth in numbers)


def form_of(chunk: AnyChunk | Int8Chunk | None) -> bytes:
    """Return the very bytes of a chunk."""
    if chunk is None:
        return b"-"
    tensors = [getattr(chunk, name) for name in type(chunk).__slots__]
    return b"|".join(
        each.contiguous().view(torch.uint8).numpy().tobytes()
        for each in tensors
        if isinstance(each, torch.Tensor)
    )


def bytes_of(memory: Memory) -> list[tuple[object, ...]]:
    return [
        (c.start, c.relevance, c.tokens_GVE.numpy().tobytes(), form_of(c.pooled), form_of(c.dense))
        for c in memory.chunks
    ]


def test_answer_is_the_one_that_a_standing_question_would_get(runner: ModelRunner) -> None:
    same = Question(
        name="fire",
        ask=ASK,
        cameras=frozenset(),
        every=timedelta(seconds=16),
        look_back=timedelta(seconds=64),
    )
    watcher = Watcher(runner, [same], PLAN)
    (finding,) = [f for nth in range(7) for f in watcher.step(window(nth))][-1:]
    reply = asking.reply(watcher, a_request(look_back=same.look_back))
    assert reply.margin == pytest.approx(finding.margin, abs=1e-4)
    assert reply.score == pytest.approx(finding.score, abs=1e-4)
    assert (reply.answer, reply.model) == (finding.answer, finding.model)


@pytest.mark.parametrize("int8", [False, True])
def test_asking_leaves_the_memory_byte_identical(runner: ModelRunner, int8: bool) -> None:
    watcher = a_watcher(runner, 8, replace(PLAN, int8=int8))
    memory, trails = watcher.memory_of("dock"), watcher.answerer.calibration._history
    chunks, held, lengths = memory.chunks, bytes_of(memory), [len(t) for t in trails.values()]
    for request in (
        a_request(in_words=True),
        a_request(look_back=timedelta(seconds=20)),
        a_request(look_back=timedelta(hours=2)),
        a_request("x" * 400),
        a_request(camera="gate"),
    ):
        asking.reply(watcher, request)
    assert memory.chunks is chunks
    assert bytes_of(memory) == held
    assert [len(t) for t in trails.values()] == lengths
    assert list(watcher._memories) == ["dock"]


def test_findings_are_the_same_whether_somebody_asks_or_not(runner: ModelRunner) -> None:
    asked, left_alone = a_watcher(runner, 6), a_watcher(runner, 6)
    asking.reply(asked, a_request(in_words=True))
    ours, told = (
        [finding for nth in (6, 7) for finding in each.step(window(nth))]
        for each in (asked, left_alone)
    )
    assert ours == told


def test_what_was_read_in_full_is_named(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = a_watcher(runner, 8)
    chosen = {"relevance": torch.tensor([[0.0, 3.0, 1.0, 0.0, 2.0, 0.0]])}
    monkeypatch.setattr(focus, "relevance", lambda *_: chosen["relevance"])
    reply = asking.reply(watcher, a_request())
    assert reply.dense == spans(watcher, 1, 4, 6, 7)
    chosen["relevance"] = torch.tensor([[1.0, 0.0]])
    near = asking.reply(watcher, a_request(look_back=timedelta(seconds=64)))
    assert near.dense == spans(watcher, 4, 5, 6, 7)
    latest = asking.reply(watcher, a_request(look_back=timedelta(seconds=10)))
    assert latest.dense == spans(watcher, 7)


def test_chunk_whose_dense_form_is_gone_is_not_said_to_be_read_in_full(runner: ModelRunner) -> None:
    watcher = a_watcher(runner, 6)
    memory = watcher.memory_of("dock")
    memory.chunks = (
        tuple(replace(chunk, dense=None) for chunk in memory.chunks[:4]) + (memory.chunks[4:])
    )
    assert asking.reply(watcher, a_request()).dense == spans(watcher, 4, 5)


def counted(
    runner: ModelRunner, margins: Sequence[float], groups: Sequence[float] = ()
) -> Iterator[list[int]]:
    """Answer by `margins`, newest first; yield the numbers of sets that each pass asked.

    The groups of a window that are asked about by themselves answer by `groups`, or yes.
    """
    passes, left = list[int](), list(margins)
    ask_as_it_is = runner.score

    def ask(inputs: Sequence[ScoreInput]) -> list[YesNoScores]:
        said = ask_as_it_is(inputs)
        if not left:
            alone = groups or [1.0] * len(inputs)
            return [replace(one, margins=[by]) for one, by in zip(said, alone, strict=True)]
        passes.append(len(inputs))
        if len(passes) == 1:  # the pass that chooses what is read in full
            return said
        return [replace(one, margins=[left.pop(0)]) for one in said]

    runner.score = ask  # type: ignore[method-assign]
    try:
        yield passes
    finally:
        runner.score = ask_as_it_is  # type: ignore[method-assign]


answering = contextmanager(counted)


@pytest.mark.parametrize(
    ("margins", "answer", "since", "or_before"),
    [
        ([2, 1, 1, -1, 1, 1, 1, 1], YesNoAnswer.YES, 5, False),
        ([2, -1, 1, -1, 1, 1, 1, 1], YesNoAnswer.YES, 7, False),
        ([-2, -1, -1, -1, -1, -1, -1, 1], YesNoAnswer.NO, 1, False),
        ([1, 1, 1, 1, 1, 1, 1, 1], YesNoAnswer.YES, 0, True),
        ([-1, nan, -1, -1, -1, -1, -1, -1], YesNoAnswer.NO, 7, False),
    ],
)
def test_since_is_the_start_of_the_unbroken_run(
    runner: ModelRunner, margins: list[float], answer: YesNoAnswer, since: int, or_before: bool
) -> None:
    watcher = a_watcher(runner, 8)
    with answering(runner, margins) as passes:
        reply = asking.reply(watcher, a_request())
    assert passes == [1, 8]
    assert (reply.answer, reply.since_or_before) == (answer, or_before)
    assert reply.since == watcher.memory_of("dock").chunks[since].start


@pytest.mark.parametrize(
    ("margins", "groups", "places"),
    [
        ([-1, -1, 1, 1, -1, 1], [-1, 1, 1, -1], [((0, 1), (0, 2)), ((2, 1), (3, 2))]),
        ([1, 1, -1, -1, -1, -1], [-1, -1, -1, -1], [((4, 0), (5, 3))]),
        ([-1, -1, -1, -1, -1, nan], [1, 1, 1, 1], []),
    ],
)
def test_it_says_when_the_answer_was_yes_to_a_group_of_stills(
    runner: ModelRunner,
    margins: list[float],
    groups: list[float],
    places: list[tuple[tuple[int, int], tuple[int, int]]],
) -> None:
    watcher = a_watcher(runner, 6)
    with answering(runner, margins, groups):
        reply = asking.reply(watcher, a_request())
    chunks = watcher.memory_of("dock").chunks
    wanted = []
    for (first, began), (last, ended) in places:
        ends = (*chunks[last].times[1:], chunks[last].end)
        wanted.append(TimeSpan(start=chunks[first].times[began], end=ends[ended]))
    assert reply.seen == tuple(wanted)
    assert decode_reply(encode_reply(reply)) == reply


def test_since_is_looked_for_16_windows_back_and_no_further(runner: ModelRunner) -> None:
    watcher = a_watcher(runner, 20)
    with answering(runner, [1.0] * 16) as passes:
        reply = asking.reply(watcher, a_request())
    assert passes == [1, 16]
    assert (reply.since, reply.since_or_before) == (window(4).start, True)
    assert reply.remembers_from == window(0).start


def test_large_memories_are_read_in_several_passes_with_the_same_answer(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = a_watcher(runner, 8)
    request = a_request()
    whole = asking.reply(watcher, request)
    monkeypatch.setattr(asking, "REPLY_MAX_TOKENS", 1)
    passes = asking._context_passes(watcher.memory_of("dock"), UNLIMITED, (), 1)
    assert [len(views) for views in passes] == [1] * 8
    parted = asking.reply(watcher, request)
    assert parted.margin == pytest.approx(whole.margin, abs=1e-4)
    assert replace(parted, margin=whole.margin, score=whole.score) == whole


class FullDevice(ModelRunner):
    """Its device has room for so many memories in a pass."""

    room = 4

    def score(self, inputs: Sequence[ScoreInput]) -> list[YesNoScores]:
        if len(inputs) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().score(inputs)


def test_reply_takes_smaller_passes_where_memory_runs_out(runner: ModelRunner) -> None:
    watcher = a_watcher(runner, 8)
    whole = asking.reply(watcher, a_request())
    watcher.runner = full = FullDevice(runner.model, runner.tokenizer, runner.name)
    parted = asking.reply(watcher, a_request())
    assert (parted.answer, parted.since) == (whole.answer, whole.since)
    full.room = 0
    refused = asking.reply(watcher, a_request())
    assert refused.refused == "not now: the device has no memory left for it"
    assert decode_reply(encode_reply(refused)) == refused


def test_each_earlier_read_is_of_the_memory_as_it_was(runner: ModelRunner) -> None:
    """Behind the memory of 5 windows, 8 of which are held now, the answer is what it was then."""
    plan = replace(PLAN, focus=0)
    watcher, then = a_watcher(runner, 8, plan), a_watcher(runner, 5, plan)
    (views,) = asking._context_passes(watcher.memory_of("dock"), timedelta(seconds=40), (), 2**14)
    was = runner.margins([ASK], then.memory_of("dock").context(timedelta(seconds=40)))
    assert runner.margins([ASK], views[3]) == was


def test_past_the_horizon_it_no_longer_remembers(runner: ModelRunner) -> None:
    plan = replace(PLAN, horizon=timedelta(seconds=64))
    watcher = a_watcher(runner, 8, plan)
    reply = asking.reply(watcher, a_request(look_back=timedelta(minutes=30)))
    assert reply.answer is not None
    assert reply.forgotten
    assert reply.remembers_from == watcher.memory_of("dock").chunks[0].start > window(0).start
    assert reply.until == window(7).end
    near = asking.reply(watcher, a_request(look_back=timedelta(seconds=32)))
    assert not near.forgotten
    assert not asking.reply(watcher, a_request()).forgotten


def test_empty_memory_no_longer_remembers_anything(runner: ModelRunner) -> None:
    watcher = a_watcher(runner, 2)
    watcher.memory_of("dock").clear()
    reply = asking.reply(watcher, a_request())
    assert reply.forgotten
    assert (reply.answer, reply.score, reply.refused, reply.dense) == (None, None, None, ())
    assert list(reply_lines(reply)) == ["I no longer remember anything of dock."]


def test_unknown_camera_is_refused_and_not_remembered(runner: ModelRunner) -> None:
    watcher = a_watcher(runner, 1)
    close, far = (asking.reply(watcher, a_request(camera=name)) for name in ("dok", "yard-7"))
    assert close.refused == "nothing has come from a camera dok yet, did you mean dock?"
    assert far.refused == "nothing has come from a camera yard-7 yet: windows came from dock"
    assert list(watcher._memories) == ["dock"]
    nobody = asking.reply(a_watcher(runner, 0), a_request())
    assert nobody.refused == "nothing has come from a camera dock yet: nor from any other"


def test_refusal_among_many_cameras_with_long_names_can_be_written(runner: ModelRunner) -> None:
    watcher = a_watcher(runner, 0)
    for nth in range(100):
        watcher.memory_of(f"{nth:064}")
    reply = asking.reply(watcher, a_request(camera="é" * 64))
    assert reply.refused is not None
    assert reply.refused.endswith(" and 95 more")
    assert decode_reply(encode_reply(reply)) == reply


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("  ", "the question is empty"),
        ("Is there a fire " * 19 + "?", "305 characters: ask it in at most 300"),
        ("Is there a fire, ü ö ä? " * 12, "tokens, more than"),
    ],
)
def test_question_that_does_not_fit_is_refused(
    runner: ModelRunner, words: str, reason: str
) -> None:
    reply = asking.reply(a_watcher(runner, 2), a_request(words))
    assert reply.refused is not None
    assert reason in reply.refused
    assert reply.answer is None


def test_answer_that_is_no_number_is_refused(runner: ModelRunner) -> None:
    watcher = a_watcher(runner, 4)
    with answering(runner, [nan] * 4):
        reply = asking.reply(watcher, a_request())
    assert reply.refused == "the model's answer is not a finite number"


def test_answer_in_words_is_one_printable_line(runner: ModelRunner) -> None:
    watcher = a_watcher(runner, 3)
    runner.generate = lambda *_: "Yes,\n a\x07 bag.\t"  # type: ignore[method-assign, assignment]
    try:
        assert asking.reply(watcher, a_request(in_words=True)).text == "Yes, a bag."
        assert asking.reply(watcher, a_request()).text is None
        runner.generate = lambda *_: " \n"  # type: ignore[method-assign, assignment]
        assert asking.reply(watcher, a_request(in_words=True)).text is None
    finally:
        del runner.generate
    reply = asking.reply(watcher, a_request(in_words=True))
    assert decode_reply(encode_reply(reply)) == reply


def a_worker(log: Log, watcher: Watcher) -> AnalyzerWorker:
    worker = AnalyzerWorker(log, watcher, keepalive=lambda seconds: None)
    worker.rebalance()
    return worker


def answer(worker: AnalyzerWorker) -> int:
    worker._fetch()
    return worker._reply_all()


def put(log: Log, *requests: QueryRequest) -> None:
    for request in requests:
        log.append(REQUESTS, request.camera, encode_request(request))


def replies(log: Log) -> list[QueryReply]:
    return [decode_reply(entry.value) for entry in log.read(REPLIES, 0)]


def test_requests_are_replied_to_once_and_in_order(runner: ModelRunner) -> None:
    log, watcher = MemoryLog(), a_watcher(runner, 2)
    asked = [a_request(), a_request(camera="gate"), a_request("x" * 301)]
    put(log, *asked)
    assert answer(a_worker(log, watcher)) == 3
    assert [told.request_id for told in replies(log)] == [request.id for request in asked]
    assert log.committed(GROUP, REQUESTS) == 3
    assert answer(a_worker(log, watcher)) == 0
    assert len(replies(log)) == 3


def test_expired_requests_are_passed_over(runner: ModelRunner) -> None:
    log = MemoryLog()
    waits = a_request()
    put(log, *(a_request(seconds=-1) for _ in range(9)), waits)
    worker = a_worker(log, a_watcher(runner, 1))
    assert [answer(worker) for _ in range(4)] == [REPLIES_AT_ONCE, REPLIES_AT_ONCE, 2, 0]
    assert [told.request_id for told in replies(log)] == [waits.id]


def test_unreadable_request_is_passed_over(runner: ModelRunner) -> None:
    log, waits = MemoryLog(), a_request()
    log.append(REQUESTS, "dock", b"nonsense", b'{"version":9}')
    put(log, waits)
    assert answer(a_worker(log, a_watcher(runner, 1))) == 3
    assert [told.request_id for told in replies(log)] == [waits.id]


def test_request_that_ends_the_process_is_not_looked_at_again(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, watcher, waits = MemoryLog(), a_watcher(runner, 1), a_request()
    put(log, a_request(), waits)
    with monkeypatch.context() as broken, pytest.raises(MemoryError):
        broken.setattr("analyzer.intake.requests.reply", raising(MemoryError))
        answer(a_worker(log, watcher))
    answer(a_worker(log, watcher))
    assert [told.request_id for told in replies(log)] == [waits.id]


def raising(error: type[BaseException]) -> Callable[..., QueryReply]:
    def reply(*_: object) -> QueryReply:
        raise error

    return reply


class FullLog(MemoryLog):
    """A log on a disk that is full for whatever is asked and replied."""

    def append(self, topic: str, key: str, *values: bytes) -> int:
        if topic == REPLIES:
            raise StorageFull("here")
        return super().append(topic, key, *values)

    def commit(self, group: str, partition: str, offset: int) -> None:
        if partition == REQUESTS:
            raise StorageFull("here")
        super().commit(group, partition, offset)


def test_full_disk_costs_a_reply_and_no_more(runner: ModelRunner) -> None:
    log = FullLog()
    put(log, a_request())
    log.append(WINDOWS, "dock", encode_window(window(0)))
    worker = a_worker(log, a_watcher(runner, 0))
    assert answer(worker) == 1
    assert answer(worker) == 0
    assert worker.run_once(threading.Event()) == 1
    assert len(log.read(FINDINGS, 0)) == 1


@contextmanager
def at_work(worker: AnalyzerWorker) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class BusyLog(MemoryLog):
    """A log in which others have got replies between a request and the reply to it."""

    def append(self, topic: str, key: str, *values: bytes) -> int:
        if topic == REQUESTS:
            super().append(REPLIES, key, b"of another version", encode_reply(ANSWERED))
        return super().append(topic, key, *values)


def test_whoever_asks_gets_the_reply_to_his_own_request(runner: ModelRunner) -> None:
    log = BusyLog()
    with at_work(a_worker(log, a_watcher(runner, 3))):
        told = asked(log, "dock", 20)
    assert told.answer is not None
    assert told.request_id != ANSWERED.request_id


def asked(log: Log, camera: str, seconds: float) -> QueryReply:
    wait = timedelta(seconds=seconds)
    return ask(log, camera, ASK, look_back=None, in_words=False, wait=wait)


def test_nobody_waits_longer_than_the_timeout() -> None:
    log, began = MemoryLog(), datetime.now(UTC)
    with pytest.raises(
        CommandFailed, match="no analyzer answered within 1s: is `longwatch run` running"
    ):
        asked(log, "dock", 1.0)
    assert timedelta(seconds=1) <= datetime.now(UTC) - began < timedelta(seconds=5)


def test_requests_and_replies_are_trimmed() -> None:
    assert {REQUESTS, REPLIES} <= {kept.topic for kept in DEFAULT_RETENTION}


ANSWERED = QueryReply(
    request_id=UUID(int=7),
    camera="dock",
    model="small@0",
    answer=YesNoAnswer.YES,
    score=0.93,
    margin=2.6,
    since=datetime(2026, 3, 1, 12, 4, 16, tzinfo=UTC),
    remembers_from=datetime(2026, 3, 1, 11, 49, tzinfo=UTC),
    until=datetime(2026, 3, 1, 12, 5, 19, tzinfo=UTC),
    dense=(
        TimeSpan(
            start=datetime(2026, 3, 1, 12, 3, 12, tzinfo=UTC),
            end=datetime(2026, 3, 1, 12, 3, 27, tzinfo=UTC),
        ),
    ),
)


def test_reply_is_told_in_lines() -> None:
    assert list(reply_lines(ANSWERED)) == [
        "yes (0.93), since 12:04:16Z, seen until 2026-03-01 12:05:19Z",
        "read in full: 12:03:12Z to 12:03:27Z",
        "I remember since 11:49:00Z.",
    ]
    forgot = replace(ANSWERED, forgotten=True, text="At the gate.", since_or_before=True)
    assert list(reply_lines(forgot)) == [
        "yes (0.93), since 12:04:16Z or before, seen until 2026-03-01 12:05:19Z",
        "At the gate.",
        "read in full: 12:03:12Z to 12:03:27Z",
        "I remember since 11:49:00Z; what was before that I no longer remember.",
    ]
    was = replace(ANSWERED, answer=YesNoAnswer.NO, seen=ANSWERED.dense * 2)
    span = "12:03:12Z to 12:03:27Z"
    assert list(reply_lines(was))[1] == f"yes: {span}, {span}"
    late = replace(ANSWERED, remembers_from=datetime(2026, 2, 28, 23, 59, tzinfo=UTC))
    assert list(reply_lines(late))[-1] == "I remember since 2026-02-28 23:59:00Z."


SITE = """\
cameras:
  dock: {{url: "rtsp://127.0.0.1:{port}/dock", window: 4s}}
questions:
  any: {{ask: "Is anything unusual happening?", every: 4s}}
rules:
  - {{name: always, when: any, above: 1.0}}
model: {{name: {model}}}
"""


ZONED = """window: 4s
    zones:
      gate: [[0.5, 0.1], [0.9, 0.1], [0.9, 0.9]]
      yard: [[0.2, 0.2], [0.8, 0.2], [0.8, 0.8]]
  ramp: {url: "rtsp://127.0.0.1/ramp"}
"""


@pytest.fixture(name="site")
def make_site(tmp_path: Path, checkpoint: Path) -> Path:
    file = tmp_path / "site.yaml"
    text = SITE.format(port=free_port(), model=checkpoint)
    text = text.replace('{url: "rtsp', '\n    url: "rtsp').replace(
        '", window: 4s}\n', f'"\n    {ZONED}'
    )
    file.write_text(text)
    SqliteLog(tmp_path / LOG_FILE).close()
    return file


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["dock", ASK], 2, "name one with --config FILE or --data DIR"),
        (["dok", ASK, "-c", "{tmp}/site.yaml"], 2, "no camera is called 'dok', did you mean"),
        (["x", ASK, "-c", "{tmp}/site.yaml"], 2, "no camera is called 'x': choose one of dock, r"),
        (["dock", ASK, "--data", "{tmp}/no"], 1, "{tmp}/no contains no log.db: name the data of a"),
        (["dock", ASK, "--data", "{tmp}", "--look-back", "x"], 2, "--look-back: write a duration"),
        (["dock", ASK, "--data", "{tmp}", "--look-back", ""], 2, "--look-back: write a duration"),
        (["dock", ASK, "--data", "{tmp}", "--look-back", "0s"], 2, "--look-back: choose 1s to"),
        (["dock", ASK, "--data", "{tmp}", "--timeout", "2h"], 2, "--timeout: choose 1s to 1h"),
        (["dock", ASK, "-c", "{tmp}/site.yaml", "--zone", "yrad"], 2, "--zone: camera 'dock' has no"
         " zone 'yrad': choose one of gate, yard"),
        (["ramp", ASK, "-c", "{tmp}/site.yaml", "--zone", "yard"], 2, "--zone: camera 'ramp' has no"
         " zones: draw 'yard' under its zones"),
        (["dock", "a\nb", "--data", "{tmp}"], 2, "cannot be asked: ask: not printable"),
        (["dock", ASK, "--data", "{tmp}", "--timeout", "1s"], 1, "is `longwatch run` running on"),
    ],
)  # fmt: skip
def test_error_is_one_line_that_says_what_to_do(
    site: Path, command: Command, words: list[str], code: int, told: str
) -> None:
    names = {"tmp": site.parent}
    result = command("ask", *(word.format(**names) for word in words))
    assert result.returncode == code, result.stderr
    assert told.format(**names) in result.stderr
    assert (result.stderr.count("\n"), result.stdout) == (1, "")


def test_command_prints_the_answer_or_why_there_is_none(
    site: Path, command: Command, runner: ModelRunner
) -> None:
    data = site.parent
    with (
        closing(SqliteLog(data / LOG_FILE)) as log,
        at_work(a_worker(log, a_watcher(runner, 6))),
    ):
        result = command("ask", "dock", ASK, "--data", data, "--look-back", "30m")
        answer, *_, full, memory = result.stdout.splitlines()
        output = json.loads(command("ask", "dock", ASK, "--data", data, "--text", "--json").stdout)
        refused = command("ask", "gate", ASK, "--data", data)
        as_json = command("ask", "gate", ASK, "--data", data, "--json")
    assert answer.startswith(("yes (0.", "no (0."))
    assert answer.endswith("seen until 2026-03-01 12:01:35Z")
    assert full.endswith("12:01:04Z to 12:01:19Z, 12:01:20Z to 12:01:35Z")
    assert memory == "I remember since 12:00:00Z; what was before that I no longer remember."
    assert (output["camera"], output["forgotten"], len(output["dense"])) == ("dock", False, 4)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("nothing has come from a camera gate yet")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["refused"] == refused.stderr.strip()


def test_command_asks_about_a_zone(site: Path, command: Command, runner: ModelRunner) -> None:
    data, watcher = site.parent, zoned_watcher(runner, 4, YARD)
    site.write_text(f"{site.read_text()}data: {data}\n")
    with closing(SqliteLog(data / LOG_FILE)) as log, at_work(a_worker(log, watcher)):
        output = {
            zone: json.loads(command("ask", "dock", ASK, "-c", site, *words, "--json").stdout)
            for zone, words in ((None, ()), ("yard", ("--zone", "yard")))
        }
        undrawn = command("ask", "dock", ASK, "-c", site, "--zone", "gate")
    for zone, said in output.items():
        assert said["margin"] == pytest.approx(
            asking.reply(watcher, a_request(zone=zone)).margin, abs=1e-4
        )
    assert output[None]["margin"] != output["yard"]["margin"]
    assert (undrawn.returncode, undrawn.stdout) == (1, "")
    assert undrawn.stderr.startswith("this model was not taught zones")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_running_longwatch_is_asked(tmp_path: Path, checkpoint: Path) -> None:
    port, data, site = free_port(), tmp_path / "data", tmp_path / "site.yaml"
    dock = camera_server.camera_url(port)
    text = SITE.format(port=port, model=checkpoint)
    site.write_text(text.replace(f"rtsp://127.0.0.1:{port}/dock", dock) + f"data: {data}\n")
    errors = tmp_path / "errors"
    with filmed_camera(port), run_longwatch("run", "-c", site, errors=errors) as process:
        wait_for(lambda: (data / LOG_FILE).exists() and found(data) >= 3, 200)
        words = ("ask", "dock", ASK, "-c", site, "--look-back", "1h", "--text")
        said, as_json = longwatch(*words), longwatch(*words, "--json")
        long = longwatch("ask", "dock", "Is there a fire? " * 30, "-c", site)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: process.poll() is not None, 20)
    assert process.returncode == 0, errors.read_text()
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith(("yes (", "no ("))
    assert "; what was before that I no longer remember.\n" in said.stdout
    output = json.loads(as_json.stdout)
    assert output["forgotten"] is True
    assert output["remembers_from"] <= output["since"] <= output["until"]
    assert output["dense"][-1]["end"] == output["until"]
    assert (long.returncode, long.stdout) == (1, "")
    assert "characters: ask it in at most 300" in long.stderr


def found(data: Path) -> int:
    with closing(SqliteLog(data / LOG_FILE)) as log:
        return log.end_offset(log.partition_for(FINDINGS, "dock"))
