"""Train nano from scratch on rendered scenes, in the stages of Video-XL-2 in miniature.

    python -m analyzer.nano.workshop.school.train --folder .nano [--stage see]

1. `see`: tower, synthesis and projector learn dense labels.
   `speak`: in parallel, the decoder learns to answer from visual tokens made of labels.
2. `align`: the projector learns to feed the decoder, which is frozen.
3. `caption`: both learn to describe events, times, places and the number of people; yes/no
   questions are included, since words alone undo them.
4. `instruct`: both learn from all questions.

Unlike the original's, tower and synthesis are frozen after 1: their outputs for reels that they
were not trained on are stored, so that the decoder learns how reliable they are, in a quarter of
the time. From 2 on the dense labels are still trained, and streams are prefilled chunk by chunk
under the reference's mask, some windows pooled. Every stage resumes after an interruption.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from analyzer.models.loading import save_weights
from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.models.videoxl2.model import VideoXL2
from analyzer.models.videoxl2.vision import group_stills
from analyzer.nano.workshop.lessons.lessons import make_tokenizer
from analyzer.nano.workshop.school.batches import (
    ENCODED_FOLDER,
    BatchBuilder,
    BatchDataset,
    TrainingBatch,
)
from analyzer.nano.workshop.school.student import Student, draw_pooled

VOCABULARY = 768
CHECKPOINT_STEPS = 100
"""Steps from one checkpoint to the next."""
VISION_REELS = 2224
"""Scenes to learn to see from."""
ANSWER_REELS = 830
"""Scenes after them, to train the answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStage:
    """The steps of a stage, and its learning rates by prefix: the first match counts."""

    steps: int
    learning_rates: dict[str, float]


VISION = {"model.sae": 2e-4, "model.vision_tower": 1.5e-3, "model.mm_projector": 1.5e-3}
ANSWERING = {"model.mm_projector": 8e-4, "model.language": 8e-4, "of_token": 1e-3}
STAGES = {
    "see": TrainingStage(steps=5600, learning_rates={**VISION, "of_": 1.5e-3}),
    "speak": TrainingStage(steps=1800, learning_rates={"model.language": 1.2e-3, "ideal": 1.2e-3}),
    "align": TrainingStage(
        steps=120, learning_rates={"model.mm_projector": 1.5e-3, "of_token": 1e-3}
    ),
    "caption": TrainingStage(steps=100, learning_rates={**ANSWERING, "model.language": 4e-4}),
    "instruct": TrainingStage(steps=800, learning_rates=ANSWERING),
}


def nano_config(vocabulary: int) -> VideoXL2Config:
    """Return the shapes of nano: 2.8 million parameters."""
    return VideoXL2Config(
        height=128,
        width=192,
        grid=(8, 12),
        pool=2,
        stem="conv",
        tower={
            "hidden_size": 96,
            "intermediate_size": 288,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "patch_size": 16,
            "image_size": 128,
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


def learning_rate_share(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: a warm-up, a plateau, a long way down."""
    return min(1.0, (step + 1) / 40) * min(1.0, max(0.02, (1 - step / steps) / 0.5))


def optimizer_of(student: Student, learning_rates: dict[str, float]) -> torch.optim.Optimizer:
    """Return AdamW over the trained parameters, each at its rate; the rest is frozen."""
    groups: dict[str, list[Tensor]] = {prefix: [] for prefix in learning_rates}
    for name, parameter in student.named_parameters():
        prefix = next((prefix for prefix in learning_rates if name.startswith(prefix)), None)
        parameter.requires_grad_(prefix is not None)
        if prefix is not None:
            groups[prefix].append(parameter)
    rates = [{"params": groups[prefix], "peak": rate} for prefix, rate in learning_rates.items()]
    return torch.optim.AdamW(rates, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.02)


def losses_of(student: Student, stage: str, batch: TrainingBatch) -> dict[str, Tensor]:
    """Return the losses of a stage; those named `right` are for information."""
    if stage == "see":
        return student.vision_losses(batch)
    if not batch.merged_BGChw.numel():
        return student.answer_losses(student.ideal_tokens(batch), batch, draw_pooled(batch))
    tokens, losses = student.projected_tokens(batch)
    if stage == "align":
        ideal = student.ideal(batch.tokens_BGLuv.flatten(3).transpose(2, 3).clamp(max=3))
        losses["near"] = nn.functional.mse_loss(tokens.float(), ideal.detach())
    return student.answer_losses(tokens, batch, draw_pooled(batch)) | losses


def train_stage(folder: Path, name: str, steps: int, reels: int, seed: int) -> None:
    """Run one stage to its end from the state in `folder`, and write the weights there."""
    stage = STAGES[name]
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(VOCABULARY)
    config = nano_config(tokenizer.get_vocab_size())
    student = Student(config, tokenizer)
    optimizer = optimizer_of(student, stage.learning_rates)
    first = _resume(folder, name, student, optimizer)
    builder = BatchBuilder(config, tokenizer, folder / "reels", reels)
    if name == "align":
        save_encoded_reels(student, builder, folder / ENCODED_FOLDER, ANSWER_REELS)
    loader = DataLoader(
        BatchDataset(builder, name, range(first, steps)),
        batch_size=None,
        num_workers=1,
        prefetch_factor=4,
        multiprocessing_context="spawn",
    )
    student.train()
    with (folder / "curve.jsonl").open("a") as curve:
        for step, batch in enumerate(track(loader, name, total=steps - first), start=first):
            losses = _step(student, name, optimizer, learning_rate_share(step, steps), batch)
            row = {"stage": name, "step": step}
            row |= {loss: round(value.item(), 4) for loss, value in losses.items()}
            print(json.dumps(row), file=curve, flush=True)
            if (step + 1) % CHECKPOINT_STEPS == 0 or step + 1 == steps:
                state = {"step": step + 1, "student": _trained_state(student, stage.learning_rates)}
                torch.save(state | {"optimizer": optimizer.state_dict()}, folder / f"{name}.pt")
    save_checkpoint(student.model, tokenizer, folder)


def save_encoded_reels(student: Student, builder: BatchBuilder, folder: Path, count: int) -> None:
    """Write the outputs of the synthesis for reels that it was not trained on."""
    folder.mkdir(exist_ok=True)
    student.eval()
    reels = range(builder.reels, builder.reels + count)
    missing = [n for n in reels if not (folder / f"{n:08d}.pt").exists()]
    for seed in track(missing, "seeing new reels"):
        with torch.inference_mode():
            merged = student.model.sae(
                group_stills(student.model.vision_tower(builder.plain_pixels(seed)))
            )
        torch.save(merged.half(), folder / f"{seed:08d}.pt")


def _step(
    student: Student,
    name: str,
    optimizer: torch.optim.Optimizer,
    share: float,
    batch: TrainingBatch,
) -> dict[str, Tensor]:
    for parameters in optimizer.param_groups:
        parameters["lr"] = parameters["peak"] * share
    # bfloat16 and plain attention are the fastest on a CPU for sizes as small as these.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        losses = losses_of(student, name, batch)
    total = sum(
        (loss for name, loss in losses.items() if not name.startswith("right")), torch.zeros(())
    )
    optimizer.zero_grad()
    total.backward()
    nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
    return losses


def _trained_state(student: Student, learning_rates: dict[str, float]) -> dict[str, Tensor]:
    """Return the parameters that a stage may change: `see` and `speak` run in parallel."""
    return {
        name: value
        for name, value in student.state_dict().items()
        if name.startswith(tuple(learning_rates))
    }


def _resume(folder: Path, name: str, student: Student, optimizer: torch.optim.Optimizer) -> int:
    """Load the state of the earlier stages and of this one; return the next step."""
    names = list(STAGES)
    for earlier in names[: names.index(name)]:
        path = folder / f"{earlier}.pt"
        if path.exists() and (name, earlier) != ("speak", "see"):
            student.load_state_dict(torch.load(path, weights_only=True)["student"], strict=False)
    path = folder / f"{name}.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    student.load_state_dict(state["student"], strict=False)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def save_checkpoint(model: VideoXL2, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files of a model: half-precision weights, configuration, tokenizer."""
    save_weights(model, folder / "weights.safetensors")
    model.config.write(folder / "config.json")
    tokenizer.save(str(folder / "tokenizer.json"))


def main() -> None:
    """Run the stages asked for, all of them by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where weights and curves go")
    parser.add_argument("--stage", choices=list(STAGES), help="only this one")
    parser.add_argument("--steps", type=int, help="instead of the stage's own number")
    parser.add_argument(
        "--reels", type=int, default=VISION_REELS, help="scenes to learn to see from"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    (options.folder / "reels").mkdir(parents=True, exist_ok=True)
    for name in [options.stage] if options.stage else list(STAGES):
        steps = options.steps or STAGES[name].steps
        train_stage(options.folder, name, steps, options.reels, options.seed)


if __name__ == "__main__":
    main()
