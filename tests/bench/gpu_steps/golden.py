"""The reference's own tensors against this device, through the model's public passes.

Legend: T tokens, E decoder width.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from analyzer.models.loading import load_weights
from analyzer.models.videoxl2.model import VideoXL2, build_meta_model
from bench.gpu_steps.bench import Bench, Figures, named
from kit.model.reference import block_of, config_of
from kit.model.text_logits import text_logits

FOLDER = Path(__file__).parents[2] / "golden" / "video-xl-2"
NAMES = ("A", "B")
TEXT = 317
"""Text is read in pieces of this many tokens; all text sees everything, as in one shot."""
WITHIN = 1e-4
"""Of visual tokens; logits of the reference itself are off by up to 1e-3."""


@dataclass(frozen=True)
class Reference:
    """One of the reference's small models, as it was written to files."""

    name: str
    facts: dict[str, Any]

    @classmethod
    def read(cls, name: str) -> "Reference":
        return cls(name, json.loads((FOLDER / f"{name}_weights.json").read_text()))

    def tensors(self, part: str) -> dict[str, Tensor]:
        return load_file(FOLDER / f"{self.name}_{part}.safetensors")

    def model(self, device: torch.device, dtype: torch.dtype) -> VideoXL2:
        model = build_meta_model(config_of(self.facts["config"]))
        load_weights(model, self.tensors("weights"), device, dtype)
        return model.eval()


def golden(bench: Bench) -> Figures:
    """Compare visual tokens and logits with the reference's, in each precision."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    matmul.allow_tf32 = convolution.allow_tf32 = False
    try:
        return _compared(bench)
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = before


def _compared(bench: Bench) -> Figures:
    figures: Figures = {}
    for name in NAMES[bench.is_tiny :]:
        reference = Reference.read(name)
        for dtype in bench.dtypes:
            off = _off(bench, reference, dtype)
            figures |= {f"{name} {named(dtype)} {what}": value for what, value in off.items()}
    exact = [v for k, v in figures.items() if "float32 visual tokens" in k]
    return {f"float32 within {WITHIN}": max(exact) <= WITHIN, **figures}


@torch.inference_mode()
def _off(bench: Bench, reference: Reference, dtype: torch.dtype) -> Figures:
    """Return the largest difference of visual tokens, of one shot and of chunks."""
    model, want = reference.model(bench.device, dtype), reference.tensors("vision")
    tokens = model.encode(want["pixel_values"].to(bench.device, dtype))
    video = Video(reference, model, want["visual_tokens"].to(bench.device, dtype))
    logits = {way: reference.tensors(way)["step_logits"][0] for way in ("full", "chunk")}
    return {
        "visual tokens": _apart(tokens, want["visual_tokens"]),
        "one shot logits": _apart(video.one_shot(), logits["full"]),
        "chunk logits": _apart(video.chunks(), logits["chunk"]),
    }


class Video:
    """The reference's video and question, to be read by our model."""

    def __init__(self, reference: Reference, model: VideoXL2, tokens: Tensor) -> None:
        full, facts = reference.tensors("full"), reference.facts
        ids, video = full["prompt_ids"], full["time_embedding_ids"]
        begin = int((ids < 0).nonzero())
        visual = video == facts["ids"]["VISUAL_PAD"]
        self.model, self.groups = model, facts["config"]["block_size_chosed"]
        self.anchors_T, self.question = ~visual, ids[begin + 1 :]
        self.before_TE = self._embed(ids[:begin])
        self.video_TE = self._embed(video)
        self.video_TE[visual.to(model.device)] = tokens.flatten(0, 1)

    def one_shot(self) -> Tensor:
        """Return the logits behind everything, read causally."""
        parts = self.before_TE, self.video_TE, self._embed(self.question[:-1])
        cache = self.model.cache()
        for x_TE in torch.cat(parts).split(TEXT):
            cache.append(self.model.prefill(x_TE, _text(len(x_TE)), cache))
        return text_logits(self.model, [self.question[-1:].tolist()], cache)[0]

    def chunks(self) -> Tensor:
        """Return the logits behind prefix and blocks, each read as a chunk."""
        cache = self.model.cache()
        cache.append(self.model.prefill(self.before_TE, _text(len(self.before_TE)), cache))
        sizes = torch.bincount(block_of(self.anchors_T, self.groups)).tolist()
        pieces = zip(self.video_TE.split(sizes), self.anchors_T.split(sizes), strict=True)
        for x_TE, anchors_T in pieces:
            cache.append(self.model.prefill(x_TE, anchors_T, cache))
        return text_logits(self.model, [self.question.tolist()], cache)[0]

    def _embed(self, ids: Tensor) -> Tensor:
        return self.model.language.embed(ids.to(self.model.device))


def _text(tokens: int) -> Tensor:
    return torch.ones(tokens, dtype=torch.bool)


def _apart(ours: Tensor, want: Tensor) -> float:
    return float((ours.float().cpu() - want.reshape(ours.shape)).abs().max())
