"""The model that ships: that it loads, fits in the package, and sees."""

import pytest
import torch

from analyzer.errors import ModelUnusable
from analyzer.models.files import NANO_FOLDER, ModelFiles
from analyzer.models.loading import load_model, load_weights
from analyzer.models.videoxl2 import prompt
from analyzer.models.videoxl2.model import VideoXL2
from analyzer.models.videoxl2.vision import subtract_background
from analyzer.nano.workshop.exam.clips import scene_margins
from analyzer.nano.workshop.exam.evaluate import evaluate
from analyzer.nano.workshop.lessons.lessons import make_tokenizer
from analyzer.nano.workshop.renderer.events import EventKind
from analyzer.nano.workshop.scenes import demo_scene
from kit.model.videoxl2 import videoxl2_of


def test_tokenizer_keeps_digits_apart_and_any_text_whole() -> None:
    tokenizer = make_tokenizer(768)
    assert len(tokenizer.encode(prompt.timestamp(1234.5)).ids) == 10
    for text in ("Is the gate open?", "Steht da ein Koffer? \u00dc", "\u706b"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    for word in (prompt.YES, prompt.NO):
        assert len(tokenizer.encode(word).ids) == 1


def test_background_is_causal_and_goes_on_between_windows() -> None:
    torch.manual_seed(0)
    pixels = torch.rand(32, 3, 8, 8) * 2 - 1
    whole, _ = subtract_background(None, pixels)
    first, background = subtract_background(None, pixels[:16])
    second, _ = subtract_background(background, pixels[16:])
    assert torch.equal(whole, torch.cat([first, second]))


def test_what_stays_fades_into_the_background() -> None:
    empty, bag = torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.5)
    _, background = subtract_background(None, torch.stack([empty] * 32))
    differences, _ = subtract_background(background, torch.stack([bag] * 60))
    assert differences[10].mean() > 0.3
    assert differences[-1].abs().max() < 0.01


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    model = VideoXL2(videoxl2_of(load_model("nano", "cpu")).config)
    with pytest.raises(ModelUnusable, match=r"missing.*model\.embed_tokens\.weight.*stranger"):
        load_weights(model, {"stranger": torch.zeros(1)})


def test_a_folder_without_a_model_is_refused() -> None:
    with pytest.raises(ModelUnusable, match=r"no config\.json"):
        load_model("no/such/folder", "cpu")


def test_nano_fits_in_the_package() -> None:
    files = ModelFiles.find("nano").files
    assert len(files) == 3
    assert sum((NANO_FOLDER / file).stat().st_size for file in files) < 15_000_000


def test_nano_sees_the_fire_of_the_demo() -> None:
    runner = load_model("nano", "cpu")
    burning, quiet = (
        scene_margins(runner, demo_scene(90, anomaly=anomaly), windows=4)
        for anomaly in (True, False)
    )
    fire = 1 + list(EventKind).index(EventKind.FIRE)
    assert burning[fire] > 0 > quiet[fire]
    assert burning[0] > max(quiet[0], 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nano_tells_unusual_from_usual() -> None:
    figures = evaluate(load_model("nano", "cpu"), 120)
    assert (figures.summary["any_auc"] or 0) >= 0.82, figures
