"""Teach nano from nothing on rendered scenes: `python -m analyzer.nano.train --help`.

Streams of several windows are read chunk by chunk with the reference's mask, and after each
window questions are asked about it. Two auxiliary losses on the vision half, what stands in
which patch and what happens in which group, carry it over the long start.

Legend: B streams, W windows of a stream, N stills, G groups, T tokens, Q questions of a window,
A tokens of a question with its padding, V visual tokens of a group, E decoder width.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from analyzer.nano.lessons import make_tokenizer
from analyzer.nano.scenes import Kind
from analyzer.nano.streams import ANSWER_ROOM, LABELS, QUESTIONS, Batch, Streams
from analyzer.videoxl2 import prompt
from analyzer.videoxl2.checkpoint import save_weights
from analyzer.videoxl2.config import STILLS_PER_GROUP, VideoXL2Config
from analyzer.videoxl2.dts import (
    DynamicTokenSynthesis,
    HalveTime,
    SpatialAttention,
    TemporalAttention,
)
from analyzer.videoxl2.language import Lane, Reading
from analyzer.videoxl2.model import VideoXL2

PEAK, PEAK_OF_SYNTHESIS = 1.5e-3, 2e-4
"""Learning rates. The wide convolutions of the synthesis grow without bound at the first."""


def nano_config(vocabulary: int) -> VideoXL2Config:
    """Return the shapes of nano: 2.7 million parameters."""
    return VideoXL2Config(
        height=64,
        width=96,
        grid=(8, 12),
        pool=2,
        stem="conv",
        tower={
            "hidden_size": 96,
            "intermediate_size": 288,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "patch_size": 8,
            "image_size": 64,
        },
        language={
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "vocab_size": vocabulary,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": None,
        },
    )


class Student(nn.Module):
    """The model with the two auxiliary heads that are thrown away afterwards."""

    def __init__(self, config: VideoXL2Config, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model = VideoXL2(config)
        self.tokenizer = tokenizer
        self.what_stands = nn.Conv2d(config.tower["hidden_size"], len(LABELS), 1)
        self.what_happens = nn.Linear(2 * config.language["hidden_size"], len(Kind))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the answers and the two auxiliary losses."""
        B = len(batch.pixels_BNCHW)
        model = self.model
        features = model.vision_tower(batch.pixels_BNCHW.flatten(0, 1))
        tokens_GVE = model.see_features(features)
        weights = torch.tensor(list(LABELS.values()))[:, None, None]
        stands = F.binary_cross_entropy_with_logits(
            self.what_stands(features), batch.marks_BNLhw.flatten(0, 1), pos_weight=weights
        )
        summary = torch.cat([tokens_GVE.mean(1), tokens_GVE.amax(1)], dim=-1)
        happens = F.binary_cross_entropy_with_logits(
            self.what_happens(summary), batch.kinds_BGK.flatten(0, 1), pos_weight=torch.tensor(3.0)
        )
        answers = self._answers(tokens_GVE.unflatten(0, (B, -1)), batch)
        return {"answers": answers, "stands": stands, "happens": happens}

    def _answers(self, tokens_BGVE: Tensor, batch: Batch) -> Tensor:
        B, W = batch.answers_BWQ.shape[:2]
        prefix = self._words(prompt.BEFORE, B)
        groups = [
            torch.cat(
                [self._words(prompt.timestamp(batch.start + STILLS_PER_GROUP * g), B), tokens], 1
            )
            for g, tokens in enumerate(tokens_BGVE.unbind(1))
        ]
        per_window = len(groups) // W
        chunks = [torch.cat(groups[w * per_window : (w + 1) * per_window], 1) for w in range(W)]
        asks_BTE = self.model.language.embed(batch.asks_BWQA.flatten(1))
        layout = Layout.of(prefix.shape[1], [chunk.shape[1] for chunk in chunks])
        x_BTE = torch.cat([prefix, *chunks, asks_BTE], dim=1)
        look = self.model.language.look(slice(None), (), layout.mask_TT)
        reading = Reading(layout.positions_T, [Lane(0, x_BTE.shape[1], None, [look])])
        hidden = self.model.language.read(x_BTE, reading)[:, -asks_BTE.shape[1] :]
        at = torch.arange(W * QUESTIONS) * ANSWER_ROOM + batch.ends_BWQ.flatten(1)
        last = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))
        logits = self.model.language.logits(last)
        return F.cross_entropy(logits.flatten(0, 1), batch.answers_BWQ.flatten(), ignore_index=-100)

    def _words(self, text: str, streams: int) -> Tensor:
        ids = torch.tensor(self.tokenizer.encode(text).ids)
        return self.model.language.embed(ids)[None].expand(streams, -1, -1)


@dataclass(frozen=True, slots=True)
class Layout:
    """Positions and mask of a stream with its questions behind it in one pass."""

    positions_T: Tensor
    mask_TT: Tensor

    @classmethod
    def of(cls, prefix: int, chunks: list[int]) -> "Layout":
        """Lay out a prefix, chunks, and after them each window's questions."""
        stream = prefix + sum(chunks)
        room = len(chunks) * QUESTIONS * ANSWER_ROOM
        mask = torch.zeros(stream + room, stream + room, dtype=torch.bool)
        mask[:stream, :stream] = torch.ones(stream, stream, dtype=torch.bool).tril()
        positions, at, end = [torch.arange(stream)], stream, prefix
        for chunk in chunks:
            end += chunk
            for _ in range(QUESTIONS):
                own = slice(at, at + ANSWER_ROOM)
                mask[own, :end] = True
                mask[own, own] = torch.ones(ANSWER_ROOM, ANSWER_ROOM, dtype=torch.bool).tril()
                positions.append(end + torch.arange(ANSWER_ROOM))
                at += ANSWER_ROOM
        return cls(torch.cat(positions), mask)


def settle(synthesis: DynamicTokenSynthesis) -> None:
    """Start the synthesis as an average over time, so that all that the tower sees gets through."""
    for block in synthesis.encoder:
        if isinstance(block, HalveTime):
            for name, parameter in block.conv.named_parameters():
                nn.init.normal_(parameter, std=0.005 if name == "weight" else 0.0)
            same = torch.eye(block.conv.in_channels)
            block.conv.weight.data[:, :, 1:, 1, 1] += same[:, :, None] / 2
        elif isinstance(block, SpatialAttention | TemporalAttention):
            nn.init.zeros_(block.proj_out.weight)


def pace(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: a warm-up, a plateau, a long way down."""
    return min(1.0, (step + 1) / 60) * min(1.0, max(0.02, (1 - step / steps) / 0.45))


def train(folder: Path, steps: int, seed: int) -> None:
    """Train for `steps` steps, going on where `folder` says, and write the weights there."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(768)
    config = nano_config(tokenizer.get_vocab_size())
    student = Student(config, tokenizer)
    settle(student.model.sae)
    optimizer = optimizer_of(student)
    first = _resume(folder / "resume.pt", student, optimizer)
    loader = DataLoader(
        Streams(config, tokenizer, first, steps),
        batch_size=None,
        num_workers=1,
        prefetch_factor=8,
        multiprocessing_context="spawn",
    )
    student.train()
    curve = (folder / "curve.jsonl").open("a")
    for step, batch in enumerate(track(loader, "training", total=steps - first), start=first):
        for parameters in optimizer.param_groups:
            parameters["lr"] = parameters["peak"] * pace(step, steps)
        losses = student.losses(batch)
        optimizer.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        row = {"step": step} | {name: round(loss.item(), 4) for name, loss in losses.items()}
        print(json.dumps(row), file=curve, flush=True)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            state = {"step": step + 1, "student": student.state_dict()}
            torch.save(state | {"optimizer": optimizer.state_dict()}, folder / "resume.pt")
            write(student.model, tokenizer, folder)


def optimizer_of(student: Student) -> torch.optim.Optimizer:
    """Return AdamW with a learning rate of its own for the synthesis."""
    synthesis = list(student.model.sae.parameters())
    others = [p for name, p in student.named_parameters() if not name.startswith("model.sae.")]
    groups = [
        {"params": others, "peak": PEAK},
        {"params": synthesis, "peak": PEAK_OF_SYNTHESIS},
    ]
    return torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.98), weight_decay=0.02)


def _resume(path: Path, student: Student, optimizer: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    student.load_state_dict(state["student"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def write(model: VideoXL2, tokenizer: Tokenizer, folder: Path) -> None:
    """Write what a loader needs: half-precision weights, configuration, tokenizer."""
    save_weights(model, folder / "weights.safetensors")
    model.config.write(folder / "config.json")
    tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where weights and curves go")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train(arguments.folder, arguments.steps, arguments.seed)
