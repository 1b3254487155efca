"""The laws of the memory, on random weights and, where randomness could hide a loss, on nano.

1 chunked equals one-shot until the first demotion, 2 all-dense reading equals ordinary decoding,
3 asking changes nothing, 4 packed questions equal separate ones, 5 where the stream starts
changes nothing, 6 the ledger is the tensors' bytes and within the budget, 7 a rebuilt memory
equals the one that lived, 8 cameras never see each other, 9 cost and positions stay bounded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from math import ceil
from typing import Any

import pytest
import torch
from torch import Tensor

from analyzer.kv.arena.arena import AnyChunk
from analyzer.kv.budget import MemoryPlan, TierBytes, camera_budget
from analyzer.kv.cache import KVChunk, concatenate_chunks
from analyzer.kv.encoded import EncodedWindow
from analyzer.kv.forward import ForwardContext, StreamSlice, attention_block
from analyzer.kv.int8 import Int8Chunk
from analyzer.kv.memory import UNLIMITED, Memory
from analyzer.models.loading import load_model
from analyzer.models.messages import WindowToRemember
from analyzer.models.runner import ModelRunner
from analyzer.models.videoxl2 import prompt
from analyzer.nano.workshop.scenes import demo_scene
from analyzer.questions.question import Question
from analyzer.watcher import Watcher
from bench import token_replay
from kit.model.chunks import plain_chunk, plain_chunks
from kit.model.memory_bytes import tier_bytes
from kit.model.reference import reference_mask
from kit.model.small_model import BEGIN, small_runner, window
from kit.model.text_logits import text_logits
from kit.model.videoxl2 import videoxl2_of
from storage.errors import Unreadable
from storage.records.records import ClockSource, Finding, Still, Window, WindowClock

WINDOW = timedelta(seconds=16)
SCENE = demo_scene(90, True)
PLAN = MemoryPlan(
    horizon=timedelta(seconds=160), focus_horizon=timedelta(seconds=96), recent=2, focus=2
)
ASKS = ["Is there a fire?", "Is there a bag that nobody is with?", "Is anything unusual happening?"]


def questions(**changes: Any) -> list[Question]:
    told: dict[str, Any] = {"cameras": frozenset(), "every": WINDOW, "look_back": None}
    return [Question(name=f"q{n}", ask=ask, **{**told, **changes}) for n, ask in enumerate(ASKS)]


@pytest.fixture(scope="module")
def double() -> Iterator[ModelRunner]:
    with torch.inference_mode():
        runner = small_runner()
        yield ModelRunner(runner.model.double(), runner.tokenizer, "double@0")


@pytest.fixture(scope="module")
def nano() -> ModelRunner:
    return load_model("nano", "cpu")


@pytest.fixture(scope="module", params=["double", "nano"])
def runner(request: pytest.FixtureRequest) -> ModelRunner:
    found: ModelRunner = request.getfixturevalue(request.param)
    return found


@cache
def jpeg(second: int) -> bytes:
    return SCENE.jpeg(float(second), 128, 85)


def filmed(nth: int, camera: str = "dock", begin: datetime = BEGIN) -> Window:
    """Return the nth window of nano's own demo scene, in which a fire begins."""
    start = begin + nth * WINDOW
    return Window(
        camera=camera,
        stills=tuple(
            Still(
                at=start + timedelta(seconds=s),
                jpeg=jpeg((nth * 16 + s) % 90),
                width=192,
                height=128,
            )
            for s in range(16)
        ),
        clock=WindowClock(source=ClockSource.RECEIVED, offset=0.0),
        after_gap=False,
    )


def lived(watcher: Watcher, windows: int, camera: str = "dock", begin: datetime = BEGIN) -> Memory:
    for nth in range(windows):
        for _ in watcher.step(filmed(nth, camera, begin)):
            pass
    return watcher.memory_of(camera)


def tensors(memory: Memory) -> list[Tensor]:
    found = list[Tensor]()
    for chunk in memory.chunks:
        found.append(chunk.tokens_GVE)
        for form in (chunk.pooled, chunk.dense):
            if isinstance(form, KVChunk):
                found += [form.keys_NKTD, form.values_NKTD, form.anchors_T]
            elif isinstance(form, Int8Chunk):
                found += [form.keys_NKTD, form.values_NKTD, form.anchors_T]
                found += [form.key_means_NK1D, form.key_scales_NK1D, form.value_scales_NKT1]
    return found


def same(one: Memory, other: Memory, within: float = 1e-4) -> None:
    assert [chunk.start for chunk in one.chunks] == [chunk.start for chunk in other.chunks]
    for ours, theirs in zip(tensors(one), tensors(other), strict=True):
        torch.testing.assert_close(ours, theirs, atol=within, rtol=1e-3)


@torch.inference_mode()
def test_law_1_chunked_equals_one_shot_until_the_first_demotion(runner: ModelRunner) -> None:
    watcher = Watcher(runner, [], MemoryPlan(horizon=timedelta(minutes=5), recent=99))
    memory = lived(watcher, 6)
    parts, marks, blocks = list[Tensor](), list[Tensor](), list[int]()
    for nth, chunk in enumerate(memory.chunks):
        seconds = memory.to_timestamps(chunk.times)
        x_TE, anchors_T = runner.interleave(chunk.tokens_GVE, seconds)
        parts.append(x_TE)
        marks.append(anchors_T)
        blocks += [nth] * len(x_TE)
    before = runner._embed(runner.token_ids(prompt.PREFIX))
    x_TE = torch.cat([before, *parts])
    anchors = torch.cat([torch.ones(len(before), dtype=torch.bool), *marks])
    block_T = torch.tensor([0] * len(before) + blocks)
    language = runner.model.language
    mask = reference_mask(anchors, block_T, runner.model.config.previous)
    lane = StreamSlice(0, len(x_TE), None, [attention_block(x_TE, slice(None), (), mask)])
    reading = ForwardContext(torch.arange(len(x_TE)), [lane])
    language.collect_keys_values(x_TE[None], reading)
    whole = reading.chunk(lane, anchors)
    held = concatenate_chunks([runner.prefix, *plain_chunks(memory.context(UNLIMITED))])
    torch.testing.assert_close(held.keys_NKTD, whole.keys_NKTD, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(held.values_NKTD, whole.values_NKTD, atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_law_2_all_dense_reading_equals_ordinary_decoding(runner: ModelRunner) -> None:
    plan = MemoryPlan(horizon=timedelta(minutes=5), focus_horizon=timedelta(minutes=5), recent=2)
    memory = lived(Watcher(runner, [], plan), 6)
    everything = memory.context(UNLIMITED, focus=range(6))
    assert not any(chunk.token_size > 1 for chunk in everything)
    margins = runner.margins(ASKS, everything)
    one = concatenate_chunks([runner.prefix, *plain_chunks(everything)])
    for ask, margin in zip(ASKS, margins, strict=True):
        cache = runner.model.cache([one])
        logits = text_logits(
            runner.model, [runner.token_ids(f"\n{ask}<|im_end|>\n<|im_start|>assistant\n")], cache
        )
        assert float(logits[0, runner.yes_id] - logits[0, runner.no_id]) == pytest.approx(
            margin, abs=1e-4
        )
    pooled = runner.margins(ASKS, memory.context(UNLIMITED))
    assert pooled != pytest.approx(margins, abs=1e-4)


def test_law_3_asking_leaves_the_memory_as_it_was(double: ModelRunner) -> None:
    watcher = Watcher(double, [], PLAN)
    memory = lived(watcher, 7)
    before = [tensor.clone() for tensor in tensors(memory)]
    view = memory.context(UNLIMITED, focus=[1, 2])
    double.margins(ASKS, view)
    double.generate(ASKS[0], view, limit=4)
    assert all(map(torch.equal, before, tensors(memory)))


def test_law_4_packed_questions_equal_separate_ones(runner: ModelRunner) -> None:
    memory = lived(Watcher(runner, [], PLAN), 7)
    view = memory.context(UNLIMITED, focus=[3])
    packed = runner.margins(ASKS, view)
    apart = [runner.margins([ask], view)[0] for ask in ASKS]
    assert packed == pytest.approx(apart, abs=1e-4)
    assert len({round(margin, 6) for margin in packed}) == len(ASKS)


def test_law_4_an_answer_does_not_depend_on_what_else_is_due(nano: ModelRunner) -> None:
    """The rarely asked question still has its say in what is read in full."""
    plan = replace(PLAN, focus=1)
    mixed = [questions()[0], *questions(every=timedelta(hours=1))[1:]]
    rarely = run(Watcher(nano, mixed, plan), 9)
    always = run(Watcher(nano, questions(), plan), 9)
    for finding in rarely:
        (other,) = [f for f in always if f.id == finding.id]
        assert finding.margin == pytest.approx(other.margin, abs=1e-4)


def run(watcher: Watcher, windows: int, begin: datetime = BEGIN) -> list[Finding]:
    return [f for nth in range(windows) for f in watcher.step(filmed(nth, "dock", begin))]


def test_law_5_where_the_stream_starts_changes_nothing(nano: ModelRunner) -> None:
    """The same place in an epoch, ten million seconds later: the same bits."""
    step = PLAN.epoch - PLAN.horizon
    early = lived(Watcher(nano, questions(), PLAN), 8)
    late = lived(Watcher(nano, questions(), PLAN), 8, begin=BEGIN + 3000 * step)
    assert all(map(torch.equal, tensors(early), tensors(late)))


@pytest.mark.parametrize("int8", [False, True])
def test_law_6_the_ledger_is_the_bytes_held_and_within_the_budget(
    nano: ModelRunner, int8: bool
) -> None:
    plan = MemoryPlan(
        horizon=timedelta(seconds=112), focus_horizon=timedelta(seconds=48), recent=2, int8=int8
    )
    most = camera_budget(plan, *nano.shape_only_chunk(16, plan.epoch), WINDOW)
    watcher = Watcher(nano, questions(), plan, most)
    for nth in range(14):
        list(watcher.step(filmed(nth)))
        memory = watcher.memory_of("dock")
        storages = {t.untyped_storage().data_ptr(): t for t in tensors(memory)}
        held = sum(t.untyped_storage().nbytes() for t in storages.values())
        shared = sum(t.nbytes for t in tensors(memory))
        assert tier_bytes(memory).total == shared
        assert held <= shared
        for tier in ("recent", "focus", "gist", "tokens"):
            assert getattr(tier_bytes(memory), tier) <= getattr(most, tier), (nth, tier)
    assert tier_bytes(memory).focus > 0


def test_law_7_a_rebuilt_memory_equals_the_one_that_lived(runner: ModelRunner) -> None:
    watcher = Watcher(runner, questions(), PLAN)
    memory = lived(watcher, 9)
    rebuilt = Watcher(runner, questions(), PLAN)
    for nth in range(9):
        rebuilt.restore([filmed(nth)])
    for old, new in zip(memory.chunks, rebuilt.memory_of("dock").chunks, strict=True):
        torch.testing.assert_close(
            plain_chunk(new.pooled).keys_NKTD, plain_chunk(old.pooled).keys_NKTD, atol=1e-4, rtol=0
        )
        torch.testing.assert_close(new.tokens_GVE, old.tokens_GVE, atol=1e-4, rtol=0)
    (finding, *_), (again, *_) = watcher.step(filmed(9)), rebuilt.step(filmed(9))
    assert finding.margin == pytest.approx(again.margin, abs=1e-3)


def turning(plan: MemoryPlan, camera: str = "dock") -> tuple[int, int]:
    """Return the first window that is read into the next epoch, too, and the epoch's first."""
    coming = plan.epoch_origin(token_replay.BEGIN + plan.epoch_step, camera) + plan.epoch_step
    first, begin = coming - token_replay.BEGIN, coming + plan.horizon - token_replay.BEGIN
    return ceil(first / WINDOW), ceil(begin / WINDOW)


def test_law_7_an_epoch_depends_on_nothing_before_its_origin(double: ModelRunner) -> None:
    """From its turn on a memory equals one that knew nothing older than the new origin."""
    horizon = timedelta(seconds=64)
    plan = MemoryPlan(horizon=horizon, recent=2, epoch=horizon + timedelta(seconds=160))
    first, turn = turning(plan)
    old, new = (
        token_replay.TokenReplayWatcher(double, [], plan),
        token_replay.TokenReplayWatcher(double, [], plan),
    )
    old.tokens = new.tokens = [torch.randn(4, 24, 48).double() for _ in range(7)]
    old.restore([token_replay.empty_window(nth) for nth in range(first - 6, first)])
    for nth in range(first, turn):
        for each in (old, new):
            each.restore([token_replay.empty_window(nth)])
    lived, fresh = old.memory_of("dock"), new.memory_of("dock")
    before = plain_chunk(lived.chunks[0].pooled).keys_NKTD
    assert not torch.equal(before, plain_chunk(fresh.chunks[0].pooled).keys_NKTD)
    for nth in range(turn, turn + 3):
        old.restore([token_replay.empty_window(nth)])
        new.restore([token_replay.empty_window(nth)])
        assert lived.origin == fresh.origin
        assert len(lived.chunks) == 4
        assert all(map(torch.equal, tensors(lived), tensors(fresh)))


class CountingSpeaker(ModelRunner):
    """Counts the chunks that it reads, and the passes that read them."""

    chunks = passes = 0

    def prefill(self, windows: Sequence[WindowToRemember]) -> list[AnyChunk]:
        self.chunks += len(windows)
        self.passes += 1
        return super().prefill(windows)


def test_no_step_reads_more_than_twice_its_windows(double: ModelRunner) -> None:
    """Eight cameras over two epochs: each window is read twice at most, all in one pass."""
    horizon = timedelta(seconds=96)
    plan = MemoryPlan(horizon=horizon, recent=2, epoch=3 * horizon)
    runner = CountingSpeaker(double.model, double.tokenizer, "double@0")
    watching = token_replay.TokenReplayWatcher(runner, [], plan)
    watching.tokens = [torch.randn(4, 24, 48).double() for _ in range(3)]
    cameras = [f"camera-{n}" for n in range(8)]
    steps = 2 * plan.epoch_step // WINDOW
    runner.passes, read = 0, list[int]()
    for nth in range(steps):
        runner.chunks = 0
        watching.restore([token_replay.empty_window(nth, camera) for camera in cameras])
        read.append(runner.chunks)
    assert runner.passes == steps
    assert min(read) >= 8
    assert max(read) <= 16
    assert sum(read) == pytest.approx(8 * steps * 1.5, rel=0.05)


def test_law_8_cameras_batched_or_not_never_see_each_other(double: ModelRunner) -> None:
    together = Watcher(double, questions(), PLAN)
    apart = Watcher(double, questions(), PLAN)
    for nth in range(6):
        pair = [window(nth, "dock"), window(nth, "gate", shades=(5, 90, 250))]
        batched = [f for each in together.step_all(pair) for f in each.findings]
        single = [finding for one in pair for finding in apart.step(one)]
        for ours, theirs in zip(batched, single, strict=True):
            assert ours.id == theirs.id
            assert ours.margin == pytest.approx(theirs.margin, abs=1e-6)
    alone = Watcher(double, questions(), PLAN)
    for nth in range(6):
        list(alone.step(window(nth, "dock")))
    same(together.memory_of("dock"), alone.memory_of("dock"), 1e-6)


def test_law_9_bytes_and_positions_stay_bounded(double: ModelRunner) -> None:
    watcher = Watcher(double, questions(), PLAN)
    totals, lengths = list[int](), list[int]()
    for nth in range(40):
        list(watcher.step(window(nth)))
        memory = watcher.memory_of("dock")
        totals.append(tier_bytes(memory).total)
        lengths.append(sum(map(len, memory.context(UNLIMITED))))
    assert max(totals[20:]) <= 1.05 * max(totals[:20])  # a digit more in each timestamp
    assert max(lengths[20:]) <= max(lengths[:20]) + 40


def test_epoch_turns_without_a_jump_in_time(double: ModelRunner) -> None:
    plan = MemoryPlan(horizon=timedelta(seconds=64), recent=2, epoch=timedelta(seconds=64 + 96))
    watcher = Watcher(double, questions(), plan)
    origins = set()
    for nth in range(20):
        list(watcher.step(window(nth)))
        memory = watcher.memory_of("dock")
        assert memory.origin is not None
        origins.add(memory.origin)
        seconds = [memory.to_timestamps(chunk.times) for chunk in memory.chunks]
        flat = [second for times in seconds for second in times]
        assert flat == sorted(flat)
        assert flat[0] >= 0
        assert flat[-1] < plan.epoch.total_seconds()
        assert len(memory.chunks) == min(nth + 1, 4)
    assert len(origins) >= 3


def test_a_failed_append_leaves_the_memory_as_it_was(double: ModelRunner) -> None:
    watcher = Watcher(double, questions(), PLAN)
    for nth in range(3):
        list(watcher.step(window(nth)))
    memory = watcher.memory_of("dock")
    chunks, background = memory.chunks, memory.background

    projection = videoxl2_of(double).language.decoder.model.layers[0].self_attn.v_proj.bias.data
    whole = projection.clone()
    projection[0] = torch.nan
    try:
        with pytest.raises(Unreadable, match="NaN or infinity"):
            list(watcher.step(window(3)))
    finally:
        projection.copy_(whole)
    assert memory.chunks is chunks
    assert memory.background is background


def test_a_chunk_that_comes_too_late_is_refused(double: ModelRunner) -> None:
    memory = lived(Watcher(double, [], PLAN), 2)
    chunks = memory.chunks
    dense = chunks[1].dense
    assert isinstance(dense, KVChunk)
    with pytest.raises(ValueError, match="too late"):
        memory.append(window(1), (), EncodedWindow(chunks[1].tokens_GVE, None, 0), dense)
    assert memory.chunks is chunks


def test_what_mattered_is_kept_dense_longer() -> None:
    plan = MemoryPlan(horizon=timedelta(seconds=320), focus_horizon=timedelta(seconds=48), recent=1)
    memory = Memory("dock", plan)
    runner = small_runner()
    watcher = Watcher(runner, [], plan)
    watcher._memories["dock"] = memory
    for nth in range(3):
        watcher.restore([window(nth)])
    memory.record_relevance({1: 2.0})
    for nth in range(3, 9):
        watcher.restore([window(nth)])
    dense = [nth for nth, chunk in enumerate(memory.chunks) if chunk.dense is not None]
    assert 1 in dense
    assert 0 not in dense
    assert 2 not in dense


def test_a_smaller_budget_holds_less(nano: ModelRunner) -> None:
    most = camera_budget(PLAN, *nano.shape_only_chunk(16, PLAN.epoch), WINDOW)
    tight = TierBytes(
        recent=most.recent, focus=most.focus // 3, gist=most.gist // 2, tokens=most.tokens
    )
    memory = lived(Watcher(nano, [], PLAN, tight), 12)
    assert tier_bytes(memory).focus <= tight.focus
    assert tier_bytes(memory).gist <= tight.gist
    assert 1 < len(memory.chunks) < 11


def test_int8_is_near(nano: ModelRunner) -> None:
    memory = lived(Watcher(nano, [], MemoryPlan(recent=9)), 2)
    dense = memory.chunks[0].dense
    assert isinstance(dense, KVChunk)
    eight = Int8Chunk.quantise(dense)
    restored = eight.restored()
    assert eight.nbytes < dense.nbytes / 3
    for ours, told in (
        (restored.keys_NKTD, dense.keys_NKTD),
        (restored.values_NKTD, dense.values_NKTD),
    ):
        assert float((ours - told).norm() / told.norm()) < 0.01


def test_corrected_mass_gives_pooled_tokens_their_share(double: ModelRunner) -> None:
    """Where all tokens that are pooled are alike, reading the pooled ones equals reading all."""
    memory = lived(Watcher(double, [], MemoryPlan(recent=9)), 1)
    dense = memory.chunks[0].dense
    assert isinstance(dense, KVChunk)
    visual = (~dense.anchors_T).nonzero()[:, 0].view(-1, 4)
    for tensor in (dense.keys_NKTD, dense.values_NKTD):
        tensor[:, :, visual.flatten()] = tensor[:, :, visual[:, :1].expand(-1, 4).flatten()]
    language = videoxl2_of(double).language
    pooled, tokens = dense.pooled(4), torch.randn(1, 3, language.config.hidden_size).double()
    read = dict[str, Tensor]()
    with torch.inference_mode():
        for name, chunk, corrected in (
            ("dense", dense, False),
            ("corrected", pooled, True),
            ("reference", pooled, False),
        ):
            cache = language.cache([chunk], corrected)
            look = attention_block(
                tokens, slice(None), cache.bias_groups(), torch.ones(3, 3).tril() > 0
            )
            reading = ForwardContext(
                torch.zeros(3, dtype=torch.long), [StreamSlice(0, 3, cache, [look])]
            )
            cache._keys_NKLD[:, :, : cache.length] = chunk.keys_NKTD  # positions would differ
            read[name] = language.hidden_states(tokens, reading)
    torch.testing.assert_close(read["corrected"], read["dense"], atol=1e-5, rtol=0)
    assert not torch.allclose(read["reference"], read["dense"], atol=1e-5)
