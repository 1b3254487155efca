"""What the memory takes is reckoned before it is there: the arithmetic, and what is refused."""

import json
import math
import os
import subprocess
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from analyzer.capacity.capacity import CARD_RESERVE, Capacity
from analyzer.capacity.demand import MemoryDemand, plan_of
from analyzer.kv.budget import (
    MAX_WINDOWS_PER_STEP,
    MemoryPlan,
    TierBytes,
    WindowShape,
    arena_plan,
    arena_slots,
    camera_budget,
    largest_budget,
    total_budget,
)
from analyzer.kv.memory import UNLIMITED
from analyzer.models.loading import load_model
from analyzer.models.model_shape import ModelShape
from analyzer.models.runner import ModelRunner
from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.models.videoxl2.sizes import encode_bytes
from analyzer.settings import MemorySettings, ModelSettings
from analyzer.watcher import Watcher
from analyzer.worker import BATCH_SIZE
from deploy.backtest.video import _build_watcher
from deploy.checks.capacity import diagnose
from deploy.checks.memory import memory_problems
from deploy.checks.shortage import find_shortage, shortage
from deploy.config.memory_demand import build_memory_demand
from deploy.config.problems import SettingProblem
from deploy.config.settings_file import read_settings
from deploy.errors import CommandFailed
from deploy.runtime.role_builder import build_analyze_role
from kit.deploy.command import LONGWATCH, ROOT, Command, longwatch
from kit.model.checkpoints import PUBLISHED, write_json
from kit.model.memory_bytes import tier_bytes
from kit.model.small_model import BEGIN, window
from kit.model.videoxl2 import videoxl2_of

WINDOW = timedelta(seconds=16)
SHAPE = WindowShape(stills=16, length=WINDOW)
PLAN = MemoryPlan(
    horizon=timedelta(seconds=112), focus_horizon=timedelta(seconds=80), recent=2, focus=2
)
PUBLISHED_MODEL = ModelSettings(name="BAAI/Video-XL-2", device="cpu", dtype="bfloat16")


@pytest.fixture(scope="module")
def nano() -> ModelRunner:
    return load_model("nano", "cpu")


def site(memory: dict[str, Any], **changes: Any) -> MemoryDemand:
    return replace(MemoryDemand(memory=MemorySettings.model_validate(memory)), **changes)


def capacity_of(memory: dict[str, Any], **changes: Any) -> Capacity:
    return Capacity(site(memory, **changes))


def brimming(runner: ModelRunner, plan: MemoryPlan, most: TierBytes | None) -> Watcher:
    """Remember more than the horizon, where timestamps have as many digits as they ever have."""
    begin = plan.epoch_origin(BEGIN, "dock") + timedelta(seconds=1200)
    watcher = Watcher(runner, [], plan, most)
    for nth in range(math.ceil(plan.horizon / WINDOW) + 3):
        watcher.restore([window(nth, begin=begin)])
    return watcher


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("horizon", [112, 64, 24])
def test_a_full_memory_holds_what_was_reckoned(nano: ModelRunner, int8: bool, horizon: int) -> None:
    length, reach = timedelta(seconds=horizon), timedelta(seconds=min(80, horizon))
    plan = replace(PLAN, int8=int8, horizon=length, focus_horizon=reach)
    most = largest_budget(plan, nano.shape_only_chunk, [SHAPE])
    held = tier_bytes(brimming(nano, plan, most).memory_of("dock"))
    if length % WINDOW:
        assert all(asdict(held)[tier] <= size for tier, size in asdict(most).items())
    else:
        assert held == most
    assert held == tier_bytes(brimming(nano, plan, None).memory_of("dock"))


def test_a_pass_lays_out_what_was_reckoned(nano: ModelRunner) -> None:
    memory = {"horizon": "112s", "focus_horizon": "80s", "recent": 2, "focus": 2}
    found = capacity_of(memory)
    camera = found.camera_bytes(found.demand.memory)
    lived = brimming(nano, PLAN, camera).memory_of("dock")
    laid = nano._build_cache(lived.context(UNLIMITED, focus=[3, 4]))
    assert nano._build_cache(lived.prefill_context()).length < laid.length
    prefix, bytes_of_marks = nano.prefix.keys_NKTD.nbytes * 2, laid.length - len(nano.prefix)
    held = laid._keys_NKLD.nbytes + laid._values_NKLD.nbytes - prefix + bytes_of_marks
    assert held == found.context_bytes(found.demand.memory)
    found.device = torch.device("cuda:0")
    dense = found.largest_chunk(found.demand.memory).nbytes
    assert found.context_bytes(found.demand.memory) - held == 2 * dense


def test_next_epochs_take_little_where_cameras_turn_one_after_another() -> None:
    """Against the fullest that the next epochs of cameras of any names are, at any time."""
    for horizon, epoch, cameras in ((64, 3600, 300), (600, 3600, 70), (900, 3600, 8)):
        plan = MemoryPlan(horizon=timedelta(seconds=horizon), epoch=timedelta(seconds=epoch))
        most = plan.overlapping_memories(cameras)
        fullest = max(
            sum(
                _fill(plan, f"camera-{n}", BEGIN + second * timedelta(seconds=10))
                for n in range(cameras)
            )
            for second in range(int(plan.epoch_step.total_seconds()) // 10)
        )
        assert 0.5 * most < fullest <= most
    assert MemoryPlan().overlapping_memories(1) == 1
    assert MemoryPlan().overlapping_memories(300) < 9


def _fill(plan: MemoryPlan, camera: str, at: datetime) -> float:
    """Return how full the memory of a camera's next epoch is."""
    return max(0.0, (at - plan.epoch_origin(at, camera) - plan.epoch_step) / plan.horizon)


def test_the_largest_camera_is_reserved_for_all(nano: ModelRunner) -> None:
    quick = WindowShape(stills=16, length=timedelta(seconds=4))
    small = WindowShape(stills=4, length=timedelta(seconds=4))
    apart = [
        largest_budget(PLAN, nano.shape_only_chunk, [shape]) for shape in (SHAPE, quick, small)
    ]
    together = largest_budget(PLAN, nano.shape_only_chunk, [SHAPE, quick, small])
    assert asdict(together) == {
        tier: max(getattr(each, tier) for each in apart) for tier in asdict(together)
    }
    assert together.gist == apart[1].gist


def test_the_published_model_is_reckoned_with_before_it_is_fetched(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", PUBLISHED)
    outline = ModelShape.find("BAAI/Video-XL-2")
    assert outline.config == VideoXL2Config.read(tmp_path / "config.json")
    assert outline.parameters == 8_123_871_520
    tokens = [
        outline.timestamp_tokens(timedelta(seconds=latest))
        for latest in (0.1, 10.1, 1000.1, 10000.1)
    ]
    assert tokens == [7, 8, 10, 11]
    found = diagnose(MemoryDemand(model=PUBLISHED_MODEL))
    assert found.token_bytes == 57_344
    assert found.chunk_bytes.dense == 4 * (10 + 144) * 57_344 + 4 * 154
    assert found.chunk_bytes.pooled == 4 * (10 + 36) * 57_344 + 4 * 46
    assert found.weight_bytes == 2 * 8_123_871_520


def test_an_outline_knows_the_weights(nano: ModelRunner) -> None:
    held = sum(weight.numel() for weight in nano.model.state_dict().values())
    tied = videoxl2_of(nano).language.decoder.lm_head.weight.numel()
    assert ModelShape.find("nano").parameters == held - tied


def test_as_many_are_read_in_one_pass_as_is_reckoned() -> None:
    assert MAX_WINDOWS_PER_STEP == BATCH_SIZE


def test_what_fits_is_the_most_that_fits() -> None:
    found = capacity_of({"horizon": "15m", "limit": "60MB"}, cameras=3)
    memory = found.demand.memory
    most = found.most_cameras(memory)
    assert found.has_room_for(memory, most)
    assert not found.has_room_for(memory, most + 1)
    longest = found.longest_horizon("horizon", memory.horizon, WINDOW)
    assert longest is not None
    assert found.has_room_for(memory.model_copy(update={"horizon": longest}), 3)
    assert not found.has_room_for(memory.model_copy(update={"horizon": longest + WINDOW}), 3)


def test_a_fifth_stays_free_and_more_where_a_pass_takes_more() -> None:
    found = capacity_of({"horizon": "5m", "recent": 2})
    memory = found.demand.memory
    found.free_bytes = found.weight_bytes + 2 * 10**9
    needed = total_budget(plan_of(memory), found.camera_bytes(memory), 1)
    (room,) = found.rooms(memory, 1)
    assert (room.needed, room.available) == (needed.total, 16 * 10**8)
    passing = found.pass_bytes(memory, 30)
    found.free_bytes = found.weight_bytes + 3 * passing
    (room,) = found.rooms(memory, 30)
    assert room.available == 2 * passing
    found.free_bytes = found.weight_bytes - 1
    assert found.rooms(memory, 1)[0].available == 0


def test_a_pass_takes_what_seeing_reading_asking_or_replying_takes() -> None:
    """Each is the largest somewhere; at the 8B's shapes, as they were seen to be."""

    def passing(cameras: int, shape: WindowShape = SHAPE, **memory: Any) -> float:
        found = capacity_of(memory, model=PUBLISHED_MODEL, cameras=cameras, shapes=(shape,))
        return found.pass_bytes(found.demand.memory, cameras) / 10**9

    short: dict[str, Any] = {"horizon": "64s", "focus_horizon": "16s"}
    assert 2.7 < passing(1, **short) < 2.9, "seeing 128 stills"
    assert passing(8, **short) == passing(1, **short)
    hour: dict[str, Any] = {"horizon": "50m", "focus_horizon": "16s", "epoch": "2h"}
    one = capacity_of(hour, model=PUBLISHED_MODEL)
    laid = one.context_bytes(one.demand.memory) / 10**9
    assert 8 * laid + 0.8 < passing(8, **hour) < 8 * laid + 1.2, "reading or asking"
    few = WindowShape(stills=4, length=WINDOW)
    assert passing(1, few, **hour) == pytest.approx(2**14 * 57_345 / 10**9), "a reply"
    asked = replace(one.demand, cameras=8, look_backs=(timedelta.max, timedelta(minutes=20)))
    two = Capacity(asked).pass_bytes(one.demand.memory, 8) / 10**9
    assert two > passing(8, **hour) + 8 * 0.3 * laid - 1.0


def test_on_a_card_a_pass_lays_out_nothing_but_a_reply() -> None:
    def passing(horizon: str) -> tuple[int, Capacity]:
        found = capacity_of({"horizon": horizon, "epoch": "6h"}, model=PUBLISHED_MODEL)
        found.device = torch.device("cuda:0")
        return found.pass_bytes(found.demand.memory, 8), found

    short, found = passing("64s")
    assert short == encode_bytes(
        found.shape.config, torch.bfloat16, MAX_WINDOWS_PER_STEP * SHAPE.stills
    )
    assert passing("15m")[0] == short
    long, found = passing("3h")
    assert long == found.context_bytes(found.demand.memory) > short, (
        "words are read behind one memory"
    )


def test_once_loaded_what_was_measured_counts_instead_of_what_was_computed() -> None:
    found = capacity_of({"horizon": "5m"}, cameras=8)
    memory = found.demand.memory
    computed = found.pass_bytes(memory, 8)
    loaded = found.with_measured_peak(3 * computed)
    assert loaded.weight_bytes == 0
    assert loaded.pass_bytes(memory, 8) == 3 * computed
    assert found.pass_bytes(memory, 8) == computed
    loaded.free_bytes = loaded.pass_bytes(memory, 8) + 10**6
    problem = shortage(loaded)
    assert problem is not None
    assert problem.key == ("memory", "horizon")
    assert problem.message.startswith("5m of memory for 8 cameras takes ")


def test_a_card_keeps_a_small_reserve_beside_what_a_pass_takes() -> None:
    found = capacity_of({"horizon": "5m"}, cameras=8)
    memory = found.demand.memory
    found.device = torch.device("cuda:0")
    passing = found.pass_bytes(memory, 8)
    found.free_bytes = found.weight_bytes + 64 * 10**9
    room, _ = found.rooms(memory, 8)
    assert room.available == 64 * 10**9 - passing - 64 * 10**9 // CARD_RESERVE


def test_what_waits_lies_on_the_host_beside_a_gpu() -> None:
    found = capacity_of({"horizon": "5m", "recent": 2})
    found.device = torch.device("cuda:0")
    memory, plan = found.demand.memory, plan_of(found.demand.memory)
    near, far = found.rooms(memory, 3)
    arena = arena_plan(plan, found.shape_only_chunk, found.demand.shapes, arena_slots(plan, 3))
    assert (near.where, near.needed) == ("cuda:0", arena.rows * diagnose(found.demand).token_bytes)
    camera, memories = found.camera_bytes(memory), 3 + plan.overlapping_memories(3)
    assert far.where == "host"
    assert far.needed == pytest.approx(memories * camera.focus + 3 * camera.tokens, abs=2)
    limited = memory.model_copy(update={"limit": near.needed + far.needed - 1})
    (room,) = found.rooms(limited, 3)
    assert (room.needed, room.is_enough) == (near.needed + far.needed, False)
    found.host_free_bytes = camera.focus
    assert found.has_room_for(memory, 1) is False


@pytest.mark.parametrize("recent", [2, 7])
def test_an_arena_takes_what_was_reckoned(recent: int) -> None:
    """Beside it are the prefix, and the row of what nobody reads."""
    runner, cameras = load_model("nano", "cpu"), 2
    found = capacity_of({"horizon": "112s", "focus_horizon": "80s", "recent": recent})
    found.device, plan = torch.device("cuda:0"), plan_of(found.demand.memory)
    every = arena_slots(plan, cameras)
    runner.use_arena(arena_plan(plan, runner.shape_only_chunk, found.demand.shapes, every))
    assert runner.arena_decoder is not None
    arena = runner.arena_decoder.arena
    beside = (len(runner.prefix) + 1) * arena.token_bytes
    assert found.rooms(found.demand.memory, cameras)[0].needed == arena.nbytes - beside
    taken = [runner.arena_decoder.allocate_slot() for _ in range(every)]
    assert found.rooms(found.demand.memory, cameras)[0].needed == arena.nbytes - beside
    assert len(taken) == cameras + 1 + cameras, "memories, a next epoch, second looks"


@pytest.mark.parametrize(
    ("memory", "cameras", "keys"),
    [
        ({"horizon": "15m", "limit": "100MB"}, 3, "horizon focus_horizon int8 dtype limit cameras"),
        ({"horizon": "15m", "int8": True, "limit": "10MB"}, 1, "horizon limit"),
        ({"horizon": "15m", "recent": 64, "limit": "48MB"}, 1, "horizon compression dtype limit"),
    ],
)
def test_each_change_alone_makes_the_settings_fit(
    memory: dict[str, Any], cameras: int, keys: str
) -> None:
    asked = site(memory, cameras=cameras)
    found = diagnose(asked)
    assert not found.has_room
    told = dict(change.split(": ") for change in found.changes)
    assert {key.rpartition(".")[2] for key in told} >= set(keys.split())
    for key, value in told.items():
        section, _, name = key.partition(".")
        if section == "cameras":
            changed = replace(asked, cameras=int(value.split()[0]))
        elif section == "model":
            changed = replace(asked, model=ModelSettings(dtype="bfloat16"))
        else:
            changed = site(memory | {name: json.loads(value) if name == "int8" else value})
            changed = replace(changed, cameras=cameras)
        assert diagnose(changed).has_room, key


def test_settings_that_fit_are_not_refused() -> None:
    assert find_shortage(MemoryDemand()) is None


def test_weights_that_do_not_fit_are_refused() -> None:
    found = Capacity(MemoryDemand(model=PUBLISHED_MODEL))
    found.free_bytes = 16 * 10**9
    expected = "its weights take 16.2 GB, cpu has 16.0 GB free: see `longwatch doctor`"
    assert shortage(found) == SettingProblem(key=("model", "name"), message=expected)
    found.free_bytes = 20 * 10**9
    assert shortage(found) is None


def test_cameras_that_the_machine_has_no_room_for_are_refused() -> None:
    found = capacity_of({"horizon": "15m", "focus_horizon": "2m"}, cameras=3, model=PUBLISHED_MODEL)
    found.free_bytes = found.weight_bytes + 6 * 10**9
    expected = (
        "15m of memory for 3 cameras takes 5.57 GB, cpu has room for 3.19 GB: what fits is"
        " a horizon of 8m, or 1 camera at this horizon"
    )
    assert shortage(found) == SettingProblem(key=("memory", "horizon"), message=expected)
    found.free_bytes = found.weight_bytes + 10**8
    problem = shortage(found)
    assert problem is not None
    assert problem.key == ("memory", "horizon")
    assert problem.message.endswith("nothing fits: see `longwatch doctor`")


SITE = """\
cameras:
  dock: {{url: "rtsp://10.0.0.21/sub"}}
  gate: {{url: "rtsp://10.0.0.22/sub"}}
questions:
  any: {{ask: "Is anything unusual happening?"}}
model: {{name: {model}, device: {device}}}
memory:
  horizon: 15m
  limit: {limit}
"""


def write_site(folder: Path, limit: str = "1GB", model: str = "nano", device: str = "auto") -> Path:
    file = folder / "site.yaml"
    file.write_text(SITE.format(limit=limit, model=model, device=device))
    return file


@pytest.mark.slow
def test_a_budget_too_small_is_refused_before_anything_starts(tmp_path: Path) -> None:
    file = write_site(tmp_path, limit="20MB")
    said = longwatch("run", "-c", file)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == (
        f"{file}:9: memory.limit: 15m of memory for 2 cameras takes 101 MB, the limit is"
        " 20.0 MB: what fits is a limit of 102MB, or a horizon of 3m44s\n"
    )
    assert not (tmp_path / "data" / "log.db").exists()


@pytest.mark.slow
def test_a_reckoning_that_dies_lets_nothing_start(tmp_path: Path) -> None:
    contradicting = MemorySettings.model_validate({"horizon": "2h", "epoch": "1h"})
    settings = read_settings(write_site(tmp_path)).model_copy(update={"memory": contradicting})
    with pytest.raises(CommandFailed, match="cannot be computed"):
        list(memory_problems(settings))


@pytest.mark.slow
def test_validate_knows_a_limit_that_is_too_low(tmp_path: Path, command: Command) -> None:
    refused = command("validate", "-c", write_site(tmp_path, limit="20MB"))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "a limit of 102MB" in refused.stderr
    assert command("validate", "-c", write_site(tmp_path, limit="102MB")).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    file = write_site(tmp_path, device="cuda")
    said = longwatch("run", "-c", file)
    assert said.returncode == 2
    assert said.stderr.startswith(f"{file}:6: model.device: there is no cuda here: ")
    assert ": install " in said.stderr
    assert said.stderr.count("\n") == 1


def test_doctor_says_what_fits(tmp_path: Path, command: Command) -> None:
    result = command("doctor", "-c", write_site(tmp_path), "--json")
    assert result.returncode == 0, result.stderr
    output = json.loads(result.stdout)
    assert (output["fits"], output["changes"], output["cameras"]) == (True, [], 2)
    camera = output["bytes"]["camera"]["total"]
    assert 3 * camera <= output["rooms"][0]["needed"] <= 4 * camera  # next epochs included
    assert [row["horizon"] for row in output["horizons"]] == ["1m", "5m", "15m", "1h", "3h"]
    fitting = [row["cameras"] for row in output["horizons"]]
    assert fitting == sorted(fitting, reverse=True)
    shown = command("doctor", "-c", write_site(tmp_path)).stdout
    assert "15m (yours)" in shown
    assert "your settings fit this machine" in shown


def test_analyzer_and_backtest_remember_as_the_settings_say(tmp_path: Path) -> None:
    file = write_site(tmp_path)
    file.write_text(f"{file.read_text()}  mass: corrected\n  recent: 2\n")
    settings = read_settings(file)
    demand = build_analyze_role(settings).demand
    watcher = _build_watcher(settings, "dock")
    assert watcher.runner.proportional_attention
    assert watcher.plan == plan_of(demand.memory) == plan_of(settings.memory)
    assert watcher.budget == diagnose(build_memory_demand(settings)).camera_bytes
    assert demand.shapes == (SHAPE,)


def test_doctor_needs_no_settings(command: Command) -> None:
    output = json.loads(command("doctor", "--json").stdout)
    assert (output["model"], output["cameras"], output["fits"]) == ("nano", 1, True)


def test_doctor_says_what_to_change(tmp_path: Path, command: Command) -> None:
    result = command("doctor", "-c", write_site(tmp_path, limit="20MB"))
    assert result.returncode == 1
    assert "does not fit" in result.stdout
    assert "  memory.horizon: 3m44s\n" in result.stdout
    assert "  memory.limit: 102MB\n" in result.stdout


@pytest.mark.slow
def test_doctor_reckons_with_a_model_that_is_not_fetched(tmp_path: Path) -> None:
    file = write_site(tmp_path, model="BAAI/Video-XL-2", limit="22GB", device="cpu")
    words = [*LONGWATCH, "doctor", "-c", str(file)]
    environment = os.environ | {"HF_HOME": str(tmp_path)}
    result = subprocess.run(
        words, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert "BAAI/Video-XL-2, not fetched: computed from its published shapes" in result.stdout


def test_doctor_names_the_line_of_a_model_that_is_not_known(
    tmp_path: Path, command: Command
) -> None:
    file = write_site(tmp_path, model="nobody/nothing")
    result = command("doctor", "-c", file)
    assert result.returncode == 2
    assert result.stderr.startswith(f"{file}:6: model.name: nobody/nothing: ")


def test_budget_of_a_horizon_counts_whole_windows(nano: ModelRunner) -> None:
    chunk, tokens = nano.shape_only_chunk(16, timedelta(hours=1))
    for seconds, chunks in ((16, 1), (17, 2), (64, 4), (65, 5)):
        plan = replace(PLAN, horizon=timedelta(seconds=seconds))
        assert camera_budget(plan, chunk, tokens, WINDOW).tokens == chunks * tokens
