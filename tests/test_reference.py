"""Our classes against tensors that the reference's own modules wrote (float32, small weights).

Every configuration found under `LONGWATCH_GOLDEN` is tried; none is named here.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from analyzer.videoxl2.checkpoint import load_weights
from analyzer.videoxl2.config import STILLS_PER_GROUP, VideoXL2Config
from analyzer.videoxl2.language import Layers, Reading
from analyzer.videoxl2.model import VideoXL2
from analyzer.videoxl2.prompt import timestamp

HERE = Path(__file__).parent / "golden" / "video-xl-2"
GOLDEN = Path(os.environ.get("LONGWATCH_GOLDEN", HERE))
NAMES = sorted(path.name.removesuffix("_weights.json") for path in GOLDEN.glob("*_weights.json"))
DROPPED_LAYERS = 1


@dataclass(frozen=True)
class Golden:
    name: str
    model: VideoXL2
    said: dict[str, Any]

    def tensors(self, part: str) -> dict[str, Tensor]:
        return load_file(GOLDEN / f"{self.name}_{part}.safetensors")


def config_of(said: dict[str, Any]) -> VideoXL2Config:
    tower, language = dict(said["vis"]), dict(said["llm"])
    tower["num_hidden_layers"] -= DROPPED_LAYERS
    theta = language.pop("rope_theta")
    language["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    side = tower["image_size"]
    return VideoXL2Config(
        height=side, width=side, grid=(24, 24), pool=2, stem="patch", tower=tower, language=language
    )


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> Iterator[Golden]:
    said = json.loads((GOLDEN / f"{request.param}_weights.json").read_text())
    model = VideoXL2(config_of(said["config"])).eval()
    golden = Golden(request.param, model, said)
    load_weights(model, golden.tensors("weights"))
    with torch.inference_mode():
        yield golden


def test_there_are_golden_files() -> None:
    assert NAMES, f"no *_weights.json in {GOLDEN}"


def test_visual_tokens_are_the_references(golden: Golden) -> None:
    told = golden.tensors("vision")
    tokens = golden.model.see(told["pixel_values"])
    torch.testing.assert_close(tokens, told["visual_tokens"], atol=1e-4, rtol=0)


def test_timestamp_texts_are_the_references(golden: Golden) -> None:
    firsts = golden.said["times"][::STILLS_PER_GROUP]
    assert [timestamp(seconds) for seconds in firsts] == golden.said["group_text"]


def embeddings(golden: Golden, full: dict[str, Tensor]) -> Tensor:
    """Put together what goes into the decoder, from ids and visual tokens."""
    prompt_ids = full["prompt_ids"]
    at = int((prompt_ids < 0).nonzero())
    x_video = golden.model.language.embed(full["time_embedding_ids"])
    pad = golden.said["ids"]["VISUAL_PAD"]
    tokens = golden.model.see(golden.tensors("vision")["pixel_values"])
    x_video = x_video.masked_scatter((full["time_embedding_ids"] == pad)[:, None], tokens)
    before, after = (
        golden.model.language.embed(ids) for ids in (prompt_ids[:at], prompt_ids[at + 1 :])
    )
    return torch.cat([before, x_video, after])


def test_one_shot_prefill_is_the_references(golden: Golden) -> None:
    full = golden.tensors("full")
    x_TE = embeddings(golden, full)
    torch.testing.assert_close(x_TE, full["inputs_embeds"], atol=1e-4, rtol=0)
    reading = Reading(())
    hidden = golden.model.language.read(x_TE[None], torch.arange(len(x_TE)), reading)[0]
    torch.testing.assert_close(hidden, full["prefill_last_hidden"], atol=1e-3, rtol=0)
    compared = 0
    for layer, (keys, values) in enumerate(reading.made):
        if f"prefill_k_{layer}" in full:
            torch.testing.assert_close(keys[0], full[f"prefill_k_{layer}"], atol=1e-3, rtol=0)
            torch.testing.assert_close(values[0], full[f"prefill_v_{layer}"], atol=1e-3, rtol=0)
            compared += 1
    assert compared


@pytest.mark.parametrize("chunk", [10_000, 317])
def test_greedy_answer_is_the_references(golden: Golden, chunk: int) -> None:
    """The sequence is read in chunks behind a cache of our own, then decoded token by token."""
    full = golden.tensors("full")
    language, parts = golden.model.language, list[Layers]()
    for x_TE in full["inputs_embeds"][:-1].split(chunk):
        parts.append(golden.model.prefill(x_TE, parts))
    x_1E, generated = full["inputs_embeds"][-1:], list[int]()
    for told in full["step_logits"]:
        held, _ = language.gather(parts)
        reading = Reading(held)
        logits = language.logits(language.read(x_1E[None], torch.arange(1), reading))[0, -1]
        torch.testing.assert_close(logits, told, atol=1e-3, rtol=0)
        generated.append(int(logits.argmax()))
        parts.append(Layers(tuple(reading.made), 1))
        x_1E = language.embed(torch.tensor(generated[-1:]))
    assert generated == full["generated_ids"].tolist()
