"""Teach nano from nothing on rendered scenes, in the stages of Video-XL-2 in miniature.

    python -m analyzer.nano.train --folder .nano [--stage see]

1. `see`: tower, synthesis and projector learn from dense labels what stands where.
   `speak`: meanwhile the decoder learns to answer behind visual tokens made from labels.
2. `align`: the projector learns to speak to the decoder, which is frozen.
3. `caption`: both learn to tell what happens, when, where, and how many people there are; yes
   and no are asked for as well, since words alone undo them.
4. `instruct`: both learn from all questions.

Unlike the original's, tower and synthesis learn no more after 1: what they make of reels that
they have not learnt from is kept, so that the decoder learns how far they can be trusted, in a
quarter of the time. From 2 on the dense labels go on being learnt, and streams are read chunk
by chunk under the reference's mask, with pooled windows among them. Every stage goes on where
it stopped.
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

from analyzer.nano.lessons import make_tokenizer
from analyzer.nano.school.streams import SEEN, Batch, Lectures, School
from analyzer.nano.school.student import Student, often_pooled
from analyzer.videoxl2.checkpoint import save_weights
from analyzer.videoxl2.config import VideoXL2Config
from analyzer.videoxl2.model import VideoXL2
from analyzer.videoxl2.vision import group

VOCABULARY = 768
KEPT = 100
"""Steps from one checkpoint to the next."""
REELS = 2224
"""Scenes to learn to see from."""
UNSEEN = 830
"""Scenes behind them, to learn to answer from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How long a stage lasts, and what learns in it how fast: the first prefix that fits counts."""

    steps: int
    learns: dict[str, float]


VISION = {"model.sae": 2e-4, "model.vision_tower": 1.5e-3, "model.mm_projector": 1.5e-3}
ANSWERING = {"model.mm_projector": 8e-4, "model.language": 8e-4, "of_token": 1e-3}
STAGES = {
    "see": Stage(steps=5600, learns={**VISION, "of_": 1.5e-3}),
    "speak": Stage(steps=1800, learns={"model.language": 1.2e-3, "ideal": 1.2e-3}),
    "align": Stage(steps=120, learns={"model.mm_projector": 1.5e-3, "of_token": 1e-3}),
    "caption": Stage(steps=100, learns={**ANSWERING, "model.language": 4e-4}),
    "instruct": Stage(steps=800, learns=ANSWERING),
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


def pace(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: a warm-up, a plateau, a long way down."""
    return min(1.0, (step + 1) / 40) * min(1.0, max(0.02, (1 - step / steps) / 0.5))


def optimizer_of(student: Student, learns: dict[str, float]) -> torch.optim.Optimizer:
    """Return AdamW over what learns, each at its own rate; the rest is frozen."""
    groups: dict[str, list[Tensor]] = {prefix: [] for prefix in learns}
    for name, parameter in student.named_parameters():
        prefix = next((prefix for prefix in learns if name.startswith(prefix)), None)
        parameter.requires_grad_(prefix is not None)
        if prefix is not None:
            groups[prefix].append(parameter)
    rates = [{"params": groups[prefix], "peak": rate} for prefix, rate in learns.items()]
    return torch.optim.AdamW(rates, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.02)


def losses_of(student: Student, stage: str, batch: Batch) -> dict[str, Tensor]:
    """Return the losses of a stage; those named `right` only tell."""
    if stage == "see":
        return student.seeing(batch)
    if not batch.merged_BGChw.numel():
        return student.answering(student.ideal_tokens(batch), batch, often_pooled(batch))
    tokens, losses = student.projecting(batch)
    if stage == "align":
        ideal = student.ideal(batch.tokens_BGLuv.flatten(3).transpose(2, 3).clamp(max=3))
        losses["near"] = nn.functional.mse_loss(tokens.float(), ideal.detach())
    return student.answering(tokens, batch, often_pooled(batch)) | losses


def teach(folder: Path, name: str, steps: int, reels: int, seed: int) -> None:
    """Run one stage to its end, going on where `folder` says, and write the weights there."""
    stage = STAGES[name]
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(VOCABULARY)
    config = nano_config(tokenizer.get_vocab_size())
    student = Student(config, tokenizer)
    optimizer = optimizer_of(student, stage.learns)
    first = _resume(folder, name, student, optimizer)
    school = School(config, tokenizer, folder / "reels", reels)
    if name == "align":
        keep(student, school, folder / SEEN, UNSEEN)
    loader = DataLoader(
        Lectures(school, name, range(first, steps)),
        batch_size=None,
        num_workers=1,
        prefetch_factor=4,
        multiprocessing_context="spawn",
    )
    student.train()
    with (folder / "curve.jsonl").open("a") as curve:
        for step, batch in enumerate(track(loader, name, total=steps - first), start=first):
            losses = _step(student, name, optimizer, pace(step, steps), batch)
            row = {"stage": name, "step": step}
            row |= {loss: round(value.item(), 4) for loss, value in losses.items()}
            print(json.dumps(row), file=curve, flush=True)
            if (step + 1) % KEPT == 0 or step + 1 == steps:
                state = {"step": step + 1, "student": _learnt(student, stage.learns)}
                torch.save(state | {"optimizer": optimizer.state_dict()}, folder / f"{name}.pt")
    write(student.model, tokenizer, folder)


def keep(student: Student, school: School, folder: Path, many: int) -> None:
    """Write what the synthesis makes of reels that it has not learnt from."""
    folder.mkdir(exist_ok=True)
    student.eval()
    reels = range(school.reels, school.reels + many)
    missing = [n for n in reels if not (folder / f"{n:08d}.pt").exists()]
    for seed in track(missing, "seeing new reels"):
        with torch.inference_mode():
            merged = student.model.sae(group(student.model.vision_tower(school.plain(seed))))
        torch.save(merged.half(), folder / f"{seed:08d}.pt")


def _step(
    student: Student, name: str, optimizer: torch.optim.Optimizer, share: float, batch: Batch
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


def _learnt(student: Student, learns: dict[str, float]) -> dict[str, Tensor]:
    """Return what a stage may change: `see` and `speak` run beside each other."""
    return {
        name: value
        for name, value in student.state_dict().items()
        if name.startswith(tuple(learns))
    }


def _resume(folder: Path, name: str, student: Student, optimizer: torch.optim.Optimizer) -> int:
    """Load what the stages before left, and this one; return the step to go on from."""
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


def write(model: VideoXL2, tokenizer: Tokenizer, folder: Path) -> None:
    """Write what a loader needs: half-precision weights, configuration, tokenizer."""
    save_weights(model, folder / "weights.safetensors")
    model.config.write(folder / "config.json")
    tokenizer.save(str(folder / "tokenizer.json"))


def main() -> None:
    """Run the stages asked for, all of them by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where weights and curves go")
    parser.add_argument("--stage", choices=list(STAGES), help="only this one")
    parser.add_argument("--steps", type=int, help="instead of the stage's own number")
    parser.add_argument("--reels", type=int, default=REELS, help="scenes to learn to see from")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    (options.folder / "reels").mkdir(parents=True, exist_ok=True)
    for name in [options.stage] if options.stage else list(STAGES):
        steps = options.steps or STAGES[name].steps
        teach(options.folder, name, steps, options.reels, options.seed)


if __name__ == "__main__":
    main()
