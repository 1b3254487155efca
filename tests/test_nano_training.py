"""How nano is taught: batches, what is varied, and that training reads as a memory reads."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from analyzer.kv.cache import KVChunk
from analyzer.models.messages import WindowToRemember
from analyzer.models.runner import ModelRunner
from analyzer.models.videoxl2 import prompt
from analyzer.models.videoxl2.dts import DynamicTokenSynthesis
from analyzer.nano.workshop.lessons.lessons import make_tokenizer
from analyzer.nano.workshop.renderer.events import EventKind, SceneEvent
from analyzer.nano.workshop.school import batches as streams_module
from analyzer.nano.workshop.school.batches import (
    CAPTION_MIX,
    ENCODED_FOLDER,
    FIRST_REELS,
    INSTRUCT_MIX,
    Augmentation,
    BatchBuilder,
    BatchDataset,
    TokenizedLesson,
    TrainingBatch,
    group_labels,
    label_grid,
)
from analyzer.nano.workshop.school.reels import LABELS, Reel
from analyzer.nano.workshop.school.student import Student, init_as_average, label_loss
from analyzer.nano.workshop.school.train import (
    STAGES,
    learning_rate_share,
    losses_of,
    nano_config,
    optimizer_of,
    save_encoded_reels,
)
from kit.model.chunks import plain_chunk
from kit.model.small_model import small_runner
from kit.model.videoxl2 import videoxl2_of

PERSON, FIRE = list(LABELS).index("person"), list(LABELS).index("fire")


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def reel() -> Reel:
    """Return 64 stills of a dark picture with a bright spot on the left, told as a fire."""
    pixels = np.full((64, 96, 3), 30, np.uint8)
    pixels[24:40, 12:28] = (250, 160, 40)
    marks = [(n, label, 0.2, 0.5) for n in range(64) for label in (PERSON, FIRE)]
    return Reel(
        jpegs=(jpeg(pixels),) * 64,
        marks_M4=np.array(marks, np.float32),
        counts_N=np.ones(64, int),
        events=(SceneEvent(kind=EventKind.FIRE, start=0.0, end=64.0, x=0.2, y=0.5),),
    )


@pytest.fixture
def school(reel: Reel, monkeypatch: pytest.MonkeyPatch) -> BatchBuilder:
    monkeypatch.setattr(streams_module, "load_or_render", lambda _folder, _seed: reel)
    tokenizer = make_tokenizer(768)
    return BatchBuilder(nano_config(tokenizer.get_vocab_size()), tokenizer, Path("unused"), 3)


def plain(**changes: object) -> Augmentation:
    levels = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
    view = Augmentation(
        left=0.0, top=0.0, size=1.0, mirrored=False, levels=levels, order=(0, 1, 2), grey=False
    )
    return replace(view, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "view",
    [plain(), plain(mirrored=True), plain(left=0.1, top=0.2, size=0.7), plain(grey=True)],
    ids=["plain", "mirrored", "part", "grey"],
)
def test_what_is_told_moves_with_the_picture(view: Augmentation, reel: Reel) -> None:
    known, still = view.outline(reel), view.still(reel.jpegs[0], 64, 96)
    (x, y) = known.marks_M4[0, 2:]
    assert still[int(y * 64), int(x * 96)].mean() > 100
    assert still[int(y * 64), int((1 - x) * 96)].mean() < 60
    assert known.events[0].x == pytest.approx(x)
    assert known.people(3) == 1


def test_no_view_cuts_an_event_off(reel: Reel) -> None:
    r = np.random.default_rng(0)
    views = [Augmentation.random(r, reel) for _ in range(200)]
    assert all(0.05 < view.outline(reel).events[0].x < 0.95 for view in views)
    assert len({view.size for view in views}) > 50


def test_labels_stand_in_their_patches_and_groups_keep_the_most(reel: Reel) -> None:
    counts = label_grid(reel.marks_M4, range(4, 12), 8, 12)
    assert counts.shape == (8, len(LABELS), 8, 12)
    assert counts[:, FIRE].sum() == 8
    assert counts[0, FIRE, 4, 2] == 1
    assert group_labels(counts)[:, PERSON].sum() == 2


def test_batches_are_functions_of_their_number(school: BatchBuilder) -> None:
    one, same, other = (school.outline_batch(step, 2, 2) for step in (3, 3, 4))
    assert one.lessons == same.lessons
    assert torch.equal(one.tokens_BGLuv, same.tokens_BGLuv)
    assert one.lessons != other.lessons
    assert one.tokens_BGLuv.shape == (2, 8, len(LABELS), 4, 6)


def test_answers_are_words_of_the_tokenizer_and_end(school: BatchBuilder) -> None:
    batch = school.outline_batch(0, 2, 4)
    asks = [ask for stream in batch.lessons for window in stream for ask in window]
    yes, no, end = (school.tokenizer.encode(w).ids[0] for w in (prompt.YES, prompt.NO, prompt.END))
    assert all(ask.answer[-1] == end for ask in asks if ask.is_word)
    assert all(ask.answer in ([yes], [no]) for ask in asks if not ask.is_word)
    assert {ask.is_word for ask in asks} == {True, False}


def test_seeing_begins_with_the_reels_that_are_there(
    school: BatchBuilder, reel: Reel, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = list[int]()

    def load_or_render(_: object, seed: int) -> Reel:
        taken.append(seed)
        return reel

    monkeypatch.setattr(streams_module, "load_or_render", load_or_render)
    everything = BatchBuilder(school.config, school.tokenizer, Path("unused"), 10_000)
    for step in range(3):
        BatchDataset(everything, "see", range(9)).batch(step)
    assert max(taken) < FIRST_REELS + 3


def test_glimpses_are_stills_with_what_stands_where(school: BatchBuilder) -> None:
    batch = school.vision_batch(0, 2)
    assert batch.pixels_BNCHW.shape == (2, 32, 6, 128, 192)
    assert batch.patches_BNLhw.shape == (2, 32, len(LABELS), 8, 12)
    assert batch.patches_BNLhw[:, :, FIRE].sum() == 64


@pytest.mark.parametrize(("stage", "mix"), [("caption", CAPTION_MIX), ("instruct", INSTRUCT_MIX)])
def test_what_was_seen_is_asked_about(
    stage: str, mix: tuple[int, int], school: BatchBuilder, tmp_path: Path
) -> None:
    see_some(school, tmp_path)
    batch = BatchDataset(school, stage, range(1)).batch(0)
    assert batch.merged_BGChw.shape == (8, 16, 96, 8, 12)
    asked = [ask for stream in batch.lessons for window in stream for ask in window]
    assert sum(not ask.is_word for ask in asked) >= 8 * 4 * mix[0]
    assert sum(ask.is_word for ask in asked) >= 8 * 4


def test_among_instructions_are_scenes_that_were_never_rendered(
    school: BatchBuilder, tmp_path: Path
) -> None:
    see_some(school, tmp_path)
    batches = [BatchDataset(school, "instruct", range(9)).batch(step) for step in (1, 2)]
    assert [batch.merged_BGChw.numel() > 0 for batch in batches] == [True, False]


@pytest.mark.parametrize("pooled", [False, True])
def test_training_reads_as_a_memory_reads(pooled: bool) -> None:
    torch.manual_seed(0)
    runner = small_runner()
    student = Student(videoxl2_of(runner).config, runner.tokenizer)
    student.model = videoxl2_of(runner)
    tokens = torch.randn(3, 20, runner.model.config.tokens_per_group, _width(runner))
    asks = ["Is there a fire?", "Is anything unusual happening?"]
    asked = [
        [
            TokenizedLesson(runner.token_ids(prompt.question_text(ask)), [runner.yes_id], False)
            for ask in asks
        ]
    ] * 3
    with torch.inference_mode():
        held = [student._prefix(3)]
        for w in range(5):
            own = student.prefill(tokens[:, 4 * w : 4 * w + 4], 100.0 + 16 * w, held)
            held.append(own.pooled(4) if pooled and w < 4 else own)
        logits = student.answer_logits(asked, held)
        expected = [
            margin for stream in tokens for margin in _margins(runner, stream, asks, pooled)
        ]
    margins = (logits[:, runner.yes_id] - logits[:, runner.no_id]).tolist()
    assert margins == pytest.approx(expected, abs=1e-4)
    assert np.std(margins) > 1e-3


def _margins(runner: ModelRunner, tokens_GVE: Tensor, asks: list[str], pooled: bool) -> list[float]:
    behind = list[KVChunk]()
    for w in range(5):
        seconds = [100.0 + 16 * w + 4 * g for g in range(4)]
        (chunk,) = runner.prefill(
            [WindowToRemember(tokens_GVE[4 * w : 4 * w + 4], seconds, behind)]
        )
        plain = plain_chunk(chunk)
        behind.append(plain.pooled(4) if pooled and w < 4 else plain)
    return runner.margins(asks, behind)


def _width(runner: ModelRunner) -> int:
    return int(videoxl2_of(runner).config.language["hidden_size"])


def test_what_is_pooled_still_teaches_those_who_saw_it() -> None:
    torch.manual_seed(0)
    runner = small_runner()
    student = Student(videoxl2_of(runner).config, runner.tokenizer)
    tokens = torch.randn(1, 8, runner.model.config.tokens_per_group, _width(runner))
    tokens.requires_grad_()
    ask = TokenizedLesson(
        runner.token_ids(prompt.question_text("Is there a fire?")), [runner.yes_id], False
    )
    batch = TrainingBatch(
        pixels_BNCHW=torch.zeros(0),
        patches_BNLhw=torch.zeros(0),
        tokens_BGLuv=torch.zeros(0),
        lessons=[[[ask], [ask]]],
        start=0.0,
    )
    losses = {}
    for first in (True, False):
        torch.manual_seed(1)
        losses[first] = student.answer_losses(tokens, batch, torch.tensor([first, False]))["yes_no"]
    assert losses[True] != losses[False]
    losses[True].backward()
    assert tokens.grad is not None
    assert (tokens.grad[0, :4].abs().sum((1, 2)) > 0).all()


def test_a_stage_teaches_only_its_own_parts(school: BatchBuilder) -> None:
    student = Student(school.config, school.tokenizer)
    for name, stage in STAGES.items():
        optimizer_of(student, stage.learning_rates)
        moving = {n for n, p in student.named_parameters() if p.requires_grad}
        assert moving == {
            n for n, _ in student.named_parameters() if n.startswith(tuple(stage.learning_rates))
        }, name
    optimizer_of(student, STAGES["align"].learning_rates)
    assert not any(p.requires_grad for p in student.model.language.parameters())


@pytest.mark.parametrize("stage", list(STAGES))
def test_every_stage_has_losses_that_can_be_followed_back(stage: str, school: BatchBuilder) -> None:
    torch.manual_seed(0)
    student = Student(school.config, school.tokenizer)
    optimizer_of(student, STAGES[stage].learning_rates)
    batch = school.vision_batch(0, 1) if stage == "see" else school.outline_batch(0, 1, 1)
    if stage not in {"see", "speak"}:
        batch = replace(batch, merged_BGChw=torch.randn(1, 4, 96, 8, 12))
    losses = losses_of(student, stage, batch)
    trained = [loss for name, loss in losses.items() if not name.startswith("right")]
    torch.stack(trained).sum().backward()
    learning = [p for p in student.parameters() if p.requires_grad]
    assert sum(p.grad is not None for p in learning) > 0.9 * len(learning)


def test_a_neighbour_of_a_labelled_patch_weighs_less() -> None:
    counts = torch.zeros(1, len(LABELS), 8, 12)
    counts[0, FIRE, 4, 4] = 1
    beside, far = torch.full_like(counts, -9.0), torch.full_like(counts, -9.0)
    beside[0, FIRE, 4, 5] = far[0, FIRE, 0, 0] = 9.0
    assert label_loss(beside, counts) < label_loss(far, counts)


def test_synthesis_starts_as_an_average_over_time() -> None:
    torch.manual_seed(0)
    synthesis = DynamicTokenSynthesis(96)
    init_as_average(synthesis)
    x_GCThw = torch.randn(2, 96, 4, 8, 12)
    with torch.inference_mode():
        out, mean = synthesis(x_GCThw).flatten(), x_GCThw.mean(dim=2).flatten()
    assert torch.corrcoef(torch.stack([out, mean]))[0, 1] > 0.8


def test_the_pace_warms_up_and_comes_to_rest() -> None:
    paces = [learning_rate_share(step, 1000) for step in range(1000)]
    assert paces[0] < 0.1
    assert max(paces) == 1.0
    assert paces[-1] < 0.05


def test_what_was_seen_beforehand_is_what_would_be_seen(
    school: BatchBuilder, tmp_path: Path
) -> None:
    student = see_some(school, tmp_path)
    batch = school.encoded_batch(0, 1, INSTRUCT_MIX)
    with torch.inference_mode():
        kept, _ = student.projected_tokens(batch)
        fresh = student.model.encode(school.plain_pixels(0))
    assert torch.allclose(kept[0], fresh, atol=2e-3)


def see_some(school: BatchBuilder, folder: Path) -> Student:
    """Let somebody see reels that are not for seeing, and return who did."""
    torch.manual_seed(0)
    student = Student(school.config, school.tokenizer)
    school.folder, school.reels = folder / "reels", 2
    save_encoded_reels(student, school, folder / ENCODED_FOLDER, 2)
    return student
