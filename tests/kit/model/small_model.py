"""A small random model and windows of plain pictures, for what needs no trained weights."""

import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import torch
from PIL import Image

from analyzer.models.loading import save_weights
from analyzer.models.runner import ModelRunner
from analyzer.models.videoxl2.model import VideoXL2
from analyzer.nano.workshop.lessons.lessons import make_tokenizer
from analyzer.nano.workshop.school.train import nano_config
from kit.model.videoxl2 import videoxl2_of
from storage.records.records import ClockSource, Still, Window, WindowClock

BEGIN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def small_runner() -> ModelRunner:
    """Return nano in small, with random weights."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(768)
    nano = nano_config(tokenizer.get_vocab_size())
    tower = {**nano.tower, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
    language = {**nano.language, **sizes, "num_attention_heads": 4}
    config = replace(nano, height=32, width=48, grid=(4, 6), pool=1, tower=tower, language=language)
    return ModelRunner(VideoXL2(config), tokenizer, "small@0")


def still(at: datetime, shade: int) -> Still:
    return Still(at=at, jpeg=_jpeg(shade % 256), width=96, height=64)


@cache
def _jpeg(red: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (96, 64), (red, 80, 120)).save(file, "JPEG")
    return file.getvalue()


def window(
    nth: int = 0,
    camera: str = "dock",
    stills: int = 16,
    begin: datetime = BEGIN,
    after_gap: bool = False,
    shades: Sequence[int] = (40, 200),
) -> Window:
    """Return the `nth` window of a camera that sees one still a second."""
    start = begin + timedelta(seconds=nth * stills)
    return Window(
        camera=camera,
        stills=tuple(
            still(start + timedelta(seconds=s), shades[(s + nth) % len(shades)])
            for s in range(stills)
        ),
        clock=WindowClock(source=ClockSource.RECEIVED, offset=0.0),
        after_gap=after_gap,
    )


def save_checkpoint(folder: Path) -> Path:
    """Write a model folder whose answers mean nothing."""
    folder.mkdir(exist_ok=True)
    runner = small_runner()
    save_weights(runner.model, folder / "weights.safetensors")
    videoxl2_of(runner).config.write(folder / "config.json")
    runner.tokenizer.save(str(folder / "tokenizer.json"))
    return folder
