"""The first passes: float16 where it does, bfloat16 where float16 overflows, and what they take."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch

from analyzer.errors import ModelUnusable
from analyzer.kv.arena.arena import AnyChunk, ArenaChunk
from analyzer.kv.budget import MemoryPlan, WindowShape, arena_plan
from analyzer.kv.cache import KVChunk
from analyzer.models.files import ModelFiles
from analyzer.models.loading import load_model, reload_weights, save_weights
from analyzer.models.messages import WindowRun
from analyzer.models.runner import ModelRunner, is_finite
from analyzer.models.videoxl2.model import VideoXL2
from analyzer.models.warmup import WarmUpWorkload, measure_peak, warm_up
from analyzer.nano.workshop.prefill import encode_and_prefill
from kit.model.small_model import save_checkpoint, small_runner, window
from kit.model.videoxl2 import videoxl2_of

WORKLOAD = WarmUpWorkload(
    plan=MemoryPlan(horizon=timedelta(seconds=112), recent=2, focus=1),
    shapes=[WindowShape(stills=16, length=timedelta(seconds=16))],
    asks=["Is there a fire?", "Is there a bag?"],
    look_backs=[timedelta.max, timedelta(seconds=32)],
    memories=2,
)
STILLS = [still.jpeg for still in window(0).stills]
OVERFLOWED = {
    "log_level": "error",
    "event": "float16 overflowed: the model continues in bfloat16",
}
SECONDS = [float(second) for second in range(16)]


def overflowing(model: VideoXL2) -> None:
    """Let a product in the first layer leave float16's range; the norm behind it shrinks it."""
    mlp = model.language.decoder.model.layers[0].mlp
    for layer in (mlp.gate_proj, mlp.up_proj):
        layer.weight.data *= 2000


def overflowing_when_it_sees(model: VideoXL2) -> None:
    """Let a product in the tower leave float16's range; what is behind it shrinks it."""
    mlp: Any = model.vision_tower.vision_model.encoder.layers[0].mlp
    mlp.fc1.weight.data *= 2000
    mlp.fc2.weight.data *= 2000


def checkpoint(folder: Path, change: Callable[[VideoXL2], None] = lambda _: None) -> Path:
    save_checkpoint(folder)
    runner = small_runner()
    change(videoxl2_of(runner))
    save_weights(runner.model, folder / "weights.safetensors")
    return folder


def in_float16(folder: Path) -> ModelRunner:
    return load_model(str(folder), "cpu", "float16")


def give_arena(runner: ModelRunner) -> None:
    runner.use_arena(arena_plan(WORKLOAD.plan, runner.shape_only_chunk, WORKLOAD.shapes, slots=4))
    assert runner.arena_decoder is not None


@pytest.mark.parametrize("in_arena", [False, True])
def test_a_sound_model_stays_in_float16(tmp_path: Path, in_arena: bool) -> None:
    with structlog.testing.capture_logs() as logged:
        runner = in_float16(checkpoint(tmp_path))
        if in_arena:
            give_arena(runner)
        warm_up(runner, WORKLOAD)
    assert runner.dtype == torch.float16
    assert logged == []


@pytest.mark.parametrize("in_arena", [False, True])
@pytest.mark.parametrize("change", [overflowing, overflowing_when_it_sees])
def test_what_overflows_in_float16_goes_on_in_bfloat16(
    tmp_path: Path, change: Callable[[VideoXL2], None], in_arena: bool
) -> None:
    folder = checkpoint(tmp_path, change)
    with structlog.testing.capture_logs() as logged:
        runner = in_float16(folder)
        if in_arena:
            give_arena(runner)
        warm_up(runner, WORKLOAD)
    assert logged == [OVERFLOWED | {"model": runner.name}]
    assert {weight.dtype for weight in runner.model.parameters()} == {torch.bfloat16}
    fresh = load_model(str(folder), "cpu", "bfloat16")
    assert torch.equal(runner.prefix.keys_NKTD, fresh.prefix.keys_NKTD)


def spoil(model: VideoXL2) -> None:
    model.language.decoder.model.layers[0].mlp.down_proj.weight.data[0] = torch.nan


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    runner, snapshot = in_float16(folder), ModelFiles.find(str(folder))
    model = videoxl2_of(runner)

    def reload(kind: torch.dtype) -> None:
        reload_weights(runner.model, snapshot, runner.name, kind)
        spoil(model)

    spoil(model)
    spoilt = ModelRunner(model, runner.tokenizer, runner.name, reload=reload)
    with pytest.raises(
        ModelUnusable, match="computes NaN or infinity in bfloat16: the weights may"
    ):
        warm_up(spoilt, WORKLOAD)


def test_answers_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    """The last layer's own output is in no chunk: only an answer shows it."""
    runner = load_model(str(checkpoint(tmp_path)), "cpu", "bfloat16")
    videoxl2_of(runner).language.decoder.model.norm.weight.data[0] = torch.nan
    with pytest.raises(
        ModelUnusable, match="computes NaN or infinity in bfloat16: the weights may"
    ):
        warm_up(runner, WORKLOAD)


def watch(runner: ModelRunner, behind: Sequence[AnyChunk]) -> AnyChunk:
    chunk, _ = encode_and_prefill(runner, STILLS, SECONDS, None, behind)
    return chunk


def keys_of(form: AnyChunk) -> torch.Tensor:
    chunk = form.restored() if isinstance(form, ArenaChunk) else form
    return chunk.keys_NKTD.float()


@pytest.mark.parametrize("in_arena", [False, True])
@pytest.mark.parametrize(
    ("change", "step"),
    [(overflowing_when_it_sees, "see"), (overflowing, "read"), (overflowing, "ask")],
)
def test_a_later_overflow_goes_on_in_bfloat16_with_its_memory(
    tmp_path: Path, change: Callable[[VideoXL2], None], step: str, in_arena: bool
) -> None:
    folder = checkpoint(tmp_path)
    runner, fresh = in_float16(folder), load_model(str(folder), "cpu", "bfloat16")
    if in_arena:
        give_arena(runner)
    held, wanted = watch(runner, []), watch(fresh, [])
    change(videoxl2_of(runner))
    with structlog.testing.capture_logs() as logged:
        behind, wanted_behind = [held], [wanted]
        if step != "ask":
            behind.append(watch(runner, behind))
            wanted_behind.append(watch(fresh, wanted_behind))
        for _ in range(2):
            margins = runner.margins(WORKLOAD.asks, behind)
    assert logged == [OVERFLOWED | {"model": runner.name}]
    assert runner.dtype == torch.bfloat16
    ours, theirs = map(keys_of, (held, wanted))
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.05)
    assert margins == pytest.approx(fresh.margins(WORKLOAD.asks, wanted_behind), abs=0.02)


def read(runner: ModelRunner) -> KVChunk:
    """Read one window behind nothing, whatever comes of it."""
    ((seen,),) = runner.encode([WindowRun([STILLS])])
    with torch.inference_mode():
        tokens = seen.tokens_GVE.to(runner.prefix.keys_NKTD)
        x_TE, anchors_T = runner.interleave(tokens, SECONDS[::4])
        return runner.model.prefill(x_TE, anchors_T, runner.model.cache())


def test_a_model_that_is_read_again_is_that_of_its_files(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, overflowing)
    snapshot = ModelFiles.find(str(folder))
    runner = in_float16(folder)
    weights = dict(runner.model.named_parameters())
    assert not is_finite(read(runner))
    reload_weights(runner.model, snapshot, runner.name, torch.bfloat16)
    assert {weight.dtype for weight in runner.model.parameters()} == {torch.bfloat16}
    assert dict(runner.model.named_parameters()).keys() == weights.keys()
    again = ModelRunner(runner.model, runner.tokenizer, runner.name)
    chunk, fresh = read(again), read(load_model(str(folder), "cpu", "bfloat16"))
    assert is_finite(chunk)
    assert torch.equal(chunk.keys_NKTD, fresh.keys_NKTD)
    assert torch.equal(chunk.values_NKTD, fresh.values_NKTD)


def test_files_that_have_changed_are_not_read_again(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    snapshot = ModelFiles.find(str(folder))
    runner = load_model(str(folder), "cpu", "float16")
    checkpoint(tmp_path, overflowing)
    with pytest.raises(ModelUnusable, match="changed since it was loaded as"):
        reload_weights(runner.model, snapshot, runner.name, torch.bfloat16)
    assert {weight.dtype for weight in runner.model.parameters()} == {torch.float16}


def test_a_warm_up_reads_as_much_as_the_workload_says() -> None:
    """Nothing of it is left behind, and the lengths are those of full memories."""
    runner = small_runner()
    lengths = list[list[int]]()

    class Noting(ModelRunner):
        def score(self, inputs):  # type: ignore[no-untyped-def]
            lengths.append([sum(map(len, each.context)) for each in inputs])
            return super().score(inputs)

    noting = Noting(runner.model, runner.tokenizer, runner.name)
    assert warm_up(noting, WORKLOAD) == 0
    asked, replied = lengths
    dense, pooled = asked[1] // 2, (asked[0] - 3 * (asked[1] // 2)) // 4
    assert asked == [3 * dense + 4 * pooled, 2 * dense] * 2
    assert pooled < dense
    assert replied == [asked[0]] * 16


class FakeCuda:
    """A card of 24 GB that holds some bytes, and what work allocates on it."""

    def __init__(self) -> None:
        self.held = self.peak = 3 * 10**9

    def take(self, size: int) -> None:
        if self.held + size > 24 * 10**9:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 30 GiB.")
        self.peak = max(self.peak, self.held + size)

    def mem_get_info(self, _device: torch.device) -> tuple[int, int]:
        return 24 * 10**9 - self.held, 24 * 10**9

    def memory_allocated(self, _device: torch.device) -> int:
        return self.held

    def max_memory_allocated(self, _device: torch.device) -> int:
        return self.peak

    def reset_peak_memory_stats(self, _device: torch.device) -> None:
        self.peak = self.held

    def synchronize(self, _device: torch.device) -> None:
        pass

    def empty_cache(self) -> None:
        pass


def fail(said: str) -> Callable[[], object]:
    def work() -> None:
        raise RuntimeError(said)

    return work


def test_the_peak_is_what_work_takes_beside_what_is_held() -> None:
    card, device = FakeCuda(), torch.device("cuda:0")
    card.peak = 20 * 10**9

    def take_twice() -> None:
        card.take(10**9)
        card.take(2 * 10**9)

    assert measure_peak(device, take_twice, card) == 2 * 10**9
    assert measure_peak(device, lambda: card.take(30 * 10**9), card) == 21 * 10**9
    assert measure_peak(torch.device("cpu"), lambda: card.take(10**9), card) == 0


def test_a_card_that_fails_in_a_warm_up_is_one_line() -> None:
    card, device = FakeCuda(), torch.device("cuda:0")
    expected = "cuda:0 cannot be used: unspecified launch failure: check the output of nvidia-smi"
    with pytest.raises(ModelUnusable, match=expected):
        measure_peak(device, fail("CUDA error: unspecified launch failure\nCompile with"), card)
    with pytest.raises(RuntimeError, match="same device"):
        measure_peak(device, fail("Expected all tensors to be on the same device"), card)
