"""The bench for a card runs on a CPU, and a pass starts no more than it did."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from analyzer.kv.arena import flash_attention
from bench import gpu
from bench.gpu_steps.bench import Bench
from bench.gpu_steps.clocks import around
from bench.gpu_steps.counting import Operators, counted_as
from bench.gpu_steps.footage import footage
from bench.gpu_steps.golden import WITHIN
from bench.gpu_steps.model import quiet, random_model, runner_of, small_shapes
from bench.gpu_steps.site import QUESTIONS, Site, plan_for, tokens_of

GPU = Path(__file__).parent / "bench" / "gpu.py"
LANES, BEHIND = 8, 4
LAYERS = 28
"""Of the published decoder."""
FLASH = 3
"""Kernels of a flash call on a card: its own, and two for ranges that are empty."""


@pytest.fixture(name="bench", scope="module")
def make_bench() -> Bench:
    device = torch.device("cpu")
    return Bench(device=device, dtype=torch.float32, is_tiny=True, ends=float("inf"))


def lines(arguments: list[str], folder: Path) -> list[dict[str, Any]]:
    """Run the bench, and return its lines, which it prints and writes alike."""
    command = [sys.executable, str(GPU), "--device", "cpu", "--tiny", *map(str, arguments)]
    environment = {**os.environ, "OUT": str(folder)}
    ran = subprocess.run(command, capture_output=True, check=True, env=environment, text=True)
    assert ran.stdout == (folder / "figures.jsonl").read_text()
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_step_runs_on_a_cpu_or_needs_a_card(tmp_path: Path) -> None:
    found = lines(["--seconds", "1000"], tmp_path)
    assert [line["step"] for line in found] == [step.name for step in gpu.STEPS]
    assert [line for line in found if "failed" in line] == []
    passed_over = {line["step"]: line["passed_over"] for line in found if "passed_over" in line}
    assert passed_over == {"small_card": "needs a card"}
    by_name = {line["step"]: line for line in found}
    assert by_name["golden"][f"float32 within {WITHIN}"]
    assert by_name["kernels"]["view_errors"] == 0
    assert by_name["arena"]["is_right"]
    assert by_name["rolling"]["pooled"]["float32"] < 1e-4
    assert by_name["cameras"]["2 lanes, 10 questions"]["answers"] == "20 of 20"


@pytest.mark.slow
def test_what_does_not_fit_is_passed_over_and_what_fails_is_a_line(tmp_path: Path) -> None:
    found = lines(["--steps", "ceilings,tiers", "--seconds", "9"], tmp_path)
    assert "needed" in found[0]["passed_over"]
    assert found[1]["chunk_MB"] > 0


def test_step_that_fails_is_a_line_and_the_next_one_runs(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (gpu.BenchStep("no_such_step", "parts", 0), gpu.BenchStep("ceilings", "parts", 0)):
        assert gpu.run(bench, step)
    failed, following = map(json.loads, capsys.readouterr().out.splitlines())
    assert failed["failed"].startswith("AttributeError: ")
    assert "no_such_step" in failed["where"]
    assert following["step"] == "ceilings"
    assert "failed" not in following


LOST = """
from bench import gpu
kept = [step for step in gpu.STEPS if step.name in ("ceilings", "tiers")]
gpu.STEPS = gpu.BenchStep("lost", "lost", 0), *kept
gpu.main(["--device", "cpu", "--tiny", "--seconds", "300", "--steps", "lost,tiers"])
"""


@pytest.mark.slow
def test_steps_after_a_lost_device_run_in_a_fresh_process(tmp_path: Path) -> None:
    folder = tmp_path / "bench" / "gpu_steps"
    folder.mkdir(parents=True)
    error = "CUDA error: an illegal memory access was encountered"
    (folder / "lost.py").write_text(f"def lost(_): raise RuntimeError({error!r})\n")
    paths = os.pathsep.join([str(tmp_path), str(GPU.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-c", LOST]
    ran = subprocess.run(command, capture_output=True, check=True, env=environment, text=True)
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["step"] for line in found] == ["lost", "ceilings", "tiers"]
    assert [("failed" in line) for line in found] == [True, False, False]


def test_stills_are_pictures_of_their_own() -> None:
    jpeg = footage(64, 48, 2)
    made = {jpeg(number) for number in range(10)}
    assert len(made) == 10
    for still in made:
        with Image.open(io.BytesIO(still), formats=("JPEG",)) as picture:
            assert picture.convert("RGB").size == (64, 48)


def test_random_model_says_no_to_everything(bench: Bench) -> None:
    with Site(bench.speaker, questions=QUESTIONS[:2], tokens=tokens_of(bench)) as site:
        found = [finding for batch in site.batches(3) for finding in site.step(batch)]
    assert [finding.margin for finding in found] == [0.0] * 6
    assert {finding.answer.value for finding in found} == {"no"}


def test_cameras_of_a_site_never_start_their_timestamps_over(bench: Bench) -> None:
    plan = plan_for(3, 1)
    with Site(bench.speaker, plan, lanes=2, tokens=tokens_of(bench)) as site:
        site.fill(1)
        origins = {camera: site.memory(camera).origin for camera in site.cameras}
        site.fill(4)
        assert {camera: site.memory(camera).origin for camera in site.cameras} == origins
        assert len(site.memory().chunks) == 3


def passes(bench: Bench, arena: bool) -> tuple[Operators, Operators]:
    """Count what a read and a question of eight cameras behind four windows dispatch.

    The decoder is as deep as the published one; sizes change no number.
    """
    config = small_shapes(bench.published)
    language = {**config.language, "num_hidden_layers": LAYERS, "hidden_size": 64}
    deep = replace(config, language={**language, "intermediate_size": 64, "vocab_size": 768})
    runner = runner_of(quiet(random_model(deep, torch.float32, "cpu")))
    tokens = [torch.zeros(4, deep.tokens_per_group, 64)]
    read, ask = Operators(), Operators()
    options: dict[str, Any] = {"lanes": LANES, "questions": QUESTIONS[:1], "tokens": tokens}
    with Site(runner, arena=arena, **options) as site:
        site.fill(BEHIND)
        with around(runner, "prefill", lambda: read), around(runner, "score", lambda: ask):
            site.fill(1)
    return read, ask


def test_plain_pass_of_eight_cameras_dispatches_no_more_than_it_did(bench: Bench) -> None:
    """Each operator is about a kernel: a profiler on a card counted 6,440 and 3,677."""
    read, ask = passes(bench, arena=False)
    assert 0 < read.kernels <= 6_773
    assert 0 < ask.kernels <= 4_009


def test_pass_in_an_arena_starts_at_most_three_thousand_kernels(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a CPU does in the place of a flash call counts as what a card starts for it."""
    monkeypatch.setattr(
        flash_attention, "_attend_on_cpu", counted_as(FLASH, flash_attention._attend_on_cpu)
    )
    read, ask = passes(bench, arena=True)
    assert 0 < read.kernels <= 3_000
    assert 0 < ask.kernels <= 3_000
