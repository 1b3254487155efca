"""The arena reads and asks as the plain way does, which lays a cache for each pass."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import torch

from analyzer.kv.arena import passes
from analyzer.kv.arena.arena import AnyChunk, ArenaChunk
from analyzer.kv.arena.decoder import ArenaDecoder, NewChunk
from analyzer.kv.arena.slots import ArenaPlan, ArenaSlot
from analyzer.kv.budget import MemoryPlan, WindowShape, arena_plan, largest_budget
from analyzer.kv.cache import KVCache, KVChunk
from analyzer.kv.forward import PrefillInput
from analyzer.kv.memory import Memory
from analyzer.models.loading import load_model
from analyzer.models.messages import WindowToRemember
from analyzer.models.runner import ModelRunner
from analyzer.models.selfcheck import arena_difference
from analyzer.questions.question import Question
from analyzer.watcher import Watcher
from kit.model.chunks import plain_chunks
from kit.model.small_model import small_runner, window
from storage.records.records import Finding
from test_memory import filmed

PLAN = ArenaPlan(
    slots=2, dense=700, text=250, pooled=600, pooled_text=600, staging=400, compression=4
)
ASKS = ["Is there a fire?", "Is there a bag that nobody is with?", "Is it dark?"]


ASKED = ["Is there a fire?", "Is anything unusual happening?"]


def questions() -> list[Question]:
    return [
        Question(
            name=f"q{n}", ask=ask, cameras=frozenset(), every=timedelta(seconds=16), look_back=back
        )
        for n, (ask, back) in enumerate(zip(ASKED, (None, timedelta(seconds=48)), strict=True))
    ]


@pytest.fixture(scope="module", params=["double", "float"])
def runner(request: pytest.FixtureRequest) -> ModelRunner:
    found = small_runner()
    if request.param == "float":
        return found
    with torch.inference_mode():
        return ModelRunner(found.model.double(), found.tokenizer, "double@0")


class ArenaAndPlain:
    """One stream, remembered in the arena and as chunks of its own."""

    def __init__(
        self, runner: ModelRunner, streams: ArenaDecoder, recent: int, horizon: int
    ) -> None:
        self.speaker, self.streams, self.recent, self.horizon = runner, streams, recent, horizon
        self.slot: ArenaSlot = streams.allocate_slot()
        self.plain, self.arena = list[KVChunk](), list[ArenaChunk]()

    def view(self, chunks: Sequence[AnyChunk], focus: Sequence[int] = ()) -> list[AnyChunk]:
        older = len(chunks) - self.recent
        return [
            chunk if nth >= older or nth in focus else chunk.pooled(4)
            for nth, chunk in enumerate(chunks)
        ]

    def new(
        self, tokens_GVE: torch.Tensor, seconds: Sequence[float]
    ) -> tuple[NewChunk, PrefillInput]:
        x_TE, anchors_T = self.speaker.interleave(tokens_GVE, seconds)
        ids = [i for s in seconds for i in self.speaker.token_ids(f"Time {s:.1f}s:")]
        new = NewChunk(
            tokens_VE=tokens_GVE.flatten(0, 1),
            anchors_T=anchors_T,
            ids=ids,
            context=self.view(self.arena),
            slot=self.slot,
        )
        return new, PrefillInput(x_TE, anchors_T, self.cache(self.view(self.plain)))

    def cache(self, view: Sequence[AnyChunk]) -> KVCache:
        return self.speaker.model.cache(
            [self.speaker.prefix, *plain_chunks(view)], self.streams.proportional_attention
        )

    def append(self, ours: ArenaChunk, plain: KVChunk) -> None:
        self.arena = [*self.arena, ours][-self.horizon :]
        self.plain = [*self.plain, plain][-self.horizon :]


def groups(nth: int, lane: int) -> tuple[int, list[float]]:
    """Return the groups of a window and their seconds: of several lengths, the digits growing."""
    number = (4, 3, 1, 4, 2)[(nth + lane) % 5]
    return number, [16.0 * nth + 4.0 * n for n in range(number)]


@torch.inference_mode()
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize(("recent", "horizon"), [(4, 4), (4, 9), (2, 6), (1, 5)])
def test_chunks_and_answers_equal_those_of_the_plain_way(
    runner: ModelRunner, recent: int, horizon: int, corrected: bool
) -> None:
    torch.manual_seed(1)
    close = 1e-9 if runner.prefix.keys_NKTD.dtype == torch.float64 else 2e-5
    model = runner.model
    streams = ArenaDecoder(
        model.language, runner.prefix, PLAN, model.config.previous, proportional_attention=corrected
    )
    pairs = [ArenaAndPlain(runner, streams, recent, horizon) for _ in range(2)]
    like = runner.prefix.keys_NKTD
    for nth in range(14):
        read = [pair for lane, pair in enumerate(pairs) if lane == 0 or nth % 3]
        both = []
        for lane, pair in enumerate(read):
            number, seconds = groups(nth, lane)
            both.append(pair.new(torch.randn(number, 24, 48).to(like), seconds))
        ours, is_finite = streams.prefill([new for new, _ in both])
        assert is_finite
        for pair, one, plain in zip(
            read, ours, model.prefill_all([piece for _, piece in both]), strict=True
        ):
            torch.testing.assert_close(
                one.restored().keys_NKTD, plain.keys_NKTD, atol=close, rtol=0
            )
            torch.testing.assert_close(
                one.restored().values_NKTD, plain.values_NKTD, atol=close, rtol=0
            )
            pooled, wanted = one.pooled(4).restored(), plain.pooled(4)
            assert torch.equal(pooled.anchors_T, wanted.anchors_T)
            torch.testing.assert_close(pooled.keys_NKTD, wanted.keys_NKTD, atol=close, rtol=0)
            pair.append(one, plain)
        check_answers(pairs, close)


def check_answers(pairs: Sequence[ArenaAndPlain], close: float) -> None:
    runner, streams = pairs[0].speaker, pairs[0].streams
    texts = [runner.token_ids(f"\n{ask}<|im_end|>\n<|im_start|>assistant\n") for ask in ASKS]
    asks, caches = [], []
    for pair in pairs:
        count = len(pair.plain)
        for first, focus in ((0, ()), (count // 2, ()), (0, (1,))):
            held = [n - first for n in focus if first <= n < count - pair.recent]
            view = pair.view(pair.arena[first:])
            for n in held:
                view[n] = pair.plain[first + n]
            asks.append((texts[: 1 + first % 3], view))
            caches.append((texts[: 1 + first % 3], pair.cache(pair.view(pair.plain[first:], held))))
    answered = streams.forward_texts(asks)
    wanted = runner.model.forward_texts(caches)
    for ours, plain in zip(answered, wanted, strict=True):
        torch.testing.assert_close(ours.hidden_QE, plain.hidden_QE, atol=close, rtol=0)
        torch.testing.assert_close(ours.queries_NQHD, plain.queries_NQHD, atol=close, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("corrected", [False, True])
def test_the_check_at_start_finds_the_arena_right(runner: ModelRunner, corrected: bool) -> None:
    assert not arena_difference(runner.model, runner.prefix, proportional_attention=corrected)


@torch.inference_mode()
def test_the_check_at_start_finds_an_arena_that_is_wrong(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries that are turned by one position too many: 4e-3 of the outputs at this size."""
    right = passes.FarRanges.__init__

    def wrong(self: Any, arena: Any, arrays: Any, most_rows: int, like: Any) -> None:
        right(
            self, arena, arrays._replace(query_shift_PB=arrays.query_shift_PB + 1), most_rows, like
        )

    monkeypatch.setattr(passes.FarRanges, "__init__", wrong)
    said = arena_difference(runner.model, runner.prefix, proportional_attention=False)
    assert said.startswith("its outputs are off by")


@torch.inference_mode()
@pytest.mark.parametrize(("recent", "counts"), [(9, (1, 3, 2)), (3, (1, 3, 1, 1, 1))])
def test_neighbours_read_in_one_pass_equal_those_read_one_by_one(
    runner: ModelRunner, recent: int, counts: Sequence[int]
) -> None:
    torch.manual_seed(2)
    close = 1e-9 if runner.prefix.keys_NKTD.dtype == torch.float64 else 2e-5
    model, like = runner.model, runner.prefix.keys_NKTD
    streams = ArenaDecoder(
        model.language, runner.prefix, PLAN, model.config.previous, proportional_attention=False
    )
    pair, other = (ArenaAndPlain(runner, streams, recent, 99) for _ in range(2))
    for count in counts:
        run, made = list[NewChunk](), list[KVChunk]()
        for _ in range(count):
            number, seconds = groups(len(pair.plain), 0)
            new, piece = pair.new(torch.randn(number, 24, 48).to(like), seconds)
            run.append(replace(new, context=None) if run else new)
            made += model.prefill_all([piece])
            pair.plain.append(made[-1])
            if len(made) == 1:
                first = other.new(torch.randn(2, 24, 48).to(like), [16.0, 20.0])
        ours, _ = streams.prefill([*run, first[0]])
        other.append(ours[-1], *model.prefill_all([first[1]]))
        pair.arena += ours[:-1]
        for one, plain in zip(ours, made, strict=False):
            chunk = one.restored()
            torch.testing.assert_close(chunk.keys_NKTD, plain.keys_NKTD, atol=close, rtol=0)
            torch.testing.assert_close(chunk.values_NKTD, plain.values_NKTD, atol=close, rtol=0)
    check_answers([pair, other], close)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan",
    [
        MemoryPlan(),
        MemoryPlan(horizon=timedelta(seconds=160), recent=2, focus=2),
        MemoryPlan(horizon=timedelta(seconds=96), recent=1, proportional_attention=True, int8=True),
    ],
    ids=["all in full", "pooled and focused", "corrected, in eight bits"],
)
def test_a_watcher_finds_the_same_in_an_arena(plan: MemoryPlan) -> None:
    plan = replace(plan, focus_horizon=plan.horizon, epoch=2 * plan.horizon)
    shapes, found = [WindowShape(stills=16, length=timedelta(seconds=16))], list[list[Finding]]()
    for in_arena in (False, True):
        runner = load_model("nano", "cpu")
        runner.proportional_attention = plan.proportional_attention
        if in_arena:
            runner.use_arena(arena_plan(plan, runner.shape_only_chunk, shapes, slots=3))
            assert runner.arena_decoder is not None
        watcher = Watcher(
            runner, questions(), plan, largest_budget(plan, runner.shape_only_chunk, shapes)
        )
        found.append([])
        for nth in range(14):
            pair = [filmed(nth, "dock"), filmed(nth + 2, "gate")]
            for answers in watcher.step_all(pair):
                assert answers.failure is None
                found[-1] += answers.findings
    plain, ours = found
    assert len(plain) == 14 * 2 * len(ASKED)
    for one, other in zip(plain, ours, strict=True):
        assert one.id == other.id
        assert one.margin == pytest.approx(other.margin, abs=2e-3)
        assert (one.second_look is None) == (other.second_look is None)
        assert one.second_look is None or one.second_look == pytest.approx(
            other.second_look, abs=2e-3
        )


Prefill = Callable[[Sequence[WindowToRemember]], list[AnyChunk]]


def counted(
    prefill: Prefill, counts: list[int], windows: Sequence[WindowToRemember]
) -> list[AnyChunk]:
    counts.append(len(windows))
    return prefill(windows)


def test_a_rehearsal_reads_neighbours_together_and_remembers_the_same() -> None:
    plan = MemoryPlan(horizon=timedelta(seconds=112), recent=7, epoch=timedelta(hours=1))
    shapes = [WindowShape(stills=16, length=timedelta(seconds=16))]
    memories, passes_taken = list[Memory](), list[int]()
    for in_arena in (False, True):
        runner = small_runner()
        if in_arena:
            runner.use_arena(arena_plan(plan, runner.shape_only_chunk, shapes, slots=2))
        watcher = Watcher(runner, [], plan)
        read, taken = runner.prefill, list[int]()
        runner.prefill = partial(counted, read, taken)  # type: ignore[method-assign]
        for first, last in ((0, 1), (1, 5), (5, 9)):
            windows = [
                window(nth, camera) for camera in ("dock", "gate") for nth in range(first, last)
            ]
            assert watcher.restore(windows) == [None] * len(windows)
        memories.append(watcher.memory_of("gate"))
        passes_taken.append(len(taken))
    plain, ours = memories
    assert passes_taken == [9, 1 + 1 + 4], "the last four forget two and are read one by one"
    for one, other in zip(plain.chunks, ours.chunks, strict=True):
        assert one.start == other.start
        assert isinstance(one.dense, KVChunk)
        assert isinstance(other.dense, ArenaChunk)
        torch.testing.assert_close(
            other.dense.restored().keys_NKTD, one.dense.keys_NKTD, atol=2e-5, rtol=0
        )
