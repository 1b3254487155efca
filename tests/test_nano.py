"""The model that ships: what it was taught with, and that it sees."""

import numpy as np
import pytest
import torch

from analyzer.errors import ModelUnusable
from analyzer.nano.evaluate import FRESH, auc, evaluate, watch
from analyzer.nano.lessons import ABOUT, ANYTHING, VISIBLE, lessons, make_tokenizer, seen
from analyzer.nano.scenes import MAKERS, Event, Kind, Scene, demo_scene, random_scene
from analyzer.nano.streams import Streams
from analyzer.nano.train import Layout, nano_config, settle
from analyzer.videoxl2 import prompt
from analyzer.videoxl2.checkpoint import load_model, load_weights
from analyzer.videoxl2.dts import DynamicTokenSynthesis
from analyzer.videoxl2.model import VideoXL2
from analyzer.videoxl2.snapshot import NANO, Snapshot
from analyzer.videoxl2.vision import follow


def test_a_scene_is_a_function_of_its_seed() -> None:
    one, same, other = (random_scene(seed, 32).picture(9.5, 96, 64) for seed in (5, 5, 6))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_event_can_be_seen(kind: Kind) -> None:
    """Taking the event's actors out of the scene changes the pictures of its time."""
    scene = next(
        scene
        for scene in (random_scene(seed, 48, rate=1.0) for seed in range(200))
        if any(event.kind is kind and event.end < 48 for event in scene.events)
    )
    event = next(event for event in scene.events if event.kind is kind)
    middle = (event.start + event.end) / 2
    assert any(actor.present(middle) for actor in scene.actors)
    assert kind in MAKERS
    assert kind in seen(scene.events, middle - 4, middle + 4)


def test_quiet_demo_has_no_event_and_the_other_has_one() -> None:
    assert demo_scene(90, anomaly=False).events == ()
    (event,) = demo_scene(90, anomaly=True).events
    assert 16 < event.start < event.end < 90


def test_lessons_do_not_ask_about_what_is_seen_too_briefly() -> None:
    r = np.random.default_rng(0)
    brief = (Event(kind=Kind.FIRE, start=15.5, end=30),)
    asked = {lesson.ask for _ in range(50) for lesson in lessons(r, brief, 0, 16, 6)}
    assert not asked & set(ABOUT[Kind.FIRE])
    assert not asked & set(ANYTHING)
    long = (Event(kind=Kind.FIRE, start=15 - VISIBLE, end=30),)
    told = {lesson.ask: lesson.yes for _ in range(50) for lesson in lessons(r, long, 0, 16, 6)}
    assert all(told[ask] for ask in set(ABOUT[Kind.FIRE]) & told.keys())
    assert not any(told[ask] for ask in set(ABOUT[Kind.CROWD]) & told.keys())
    assert all(told[ask] for ask in ANYTHING)


def test_tokenizer_keeps_digits_apart_and_any_text_whole() -> None:
    tokenizer = make_tokenizer(768)
    assert len(tokenizer.encode(prompt.timestamp(1234.5)).ids) == 10
    for text in ("Is the gate open?", "Steht da ein Koffer? \u00dc", "\u706b"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    for word in (prompt.YES, prompt.NO):
        assert len(tokenizer.encode(word).ids) == 1


def test_questions_in_training_see_their_window_and_none_after() -> None:
    layout = Layout.of(prefix=2, chunks=[3, 3])
    stream = 2 + 3 + 3
    first, last = layout.mask_TT[stream], layout.mask_TT[-1]
    assert first[:5].all()
    assert not first[5:stream].any()
    assert last[:stream].all()
    assert layout.positions_T[stream] == 5


def test_training_batches_fit_the_model() -> None:
    tokenizer = make_tokenizer(768)
    config = nano_config(tokenizer.get_vocab_size())
    batch = Streams(config, tokenizer, 0, 10).batch(0, 1, 2)
    assert batch.pixels_BNCHW.shape == (1, 32, 6, 64, 96)
    assert batch.marks_BNLhw.sum() > 0
    answered = batch.answers_BWQ[batch.answers_BWQ >= 0]
    words = {tokenizer.encode(word).ids[0] for word in (prompt.YES, prompt.NO)}
    assert set(answered.tolist()) <= words


def test_synthesis_starts_as_an_average_over_time() -> None:
    torch.manual_seed(0)
    synthesis = DynamicTokenSynthesis(96)
    settle(synthesis)
    x_GCThw = torch.randn(2, 96, 4, 8, 12)
    with torch.inference_mode():
        out, mean = synthesis(x_GCThw).flatten(), x_GCThw.mean(dim=2).flatten()
    assert torch.corrcoef(torch.stack([out, mean]))[0, 1] > 0.8


def test_background_is_causal_and_goes_on_between_windows() -> None:
    torch.manual_seed(0)
    pixels = torch.rand(32, 3, 8, 8) * 2 - 1
    whole, _ = follow(None, pixels)
    first, background = follow(None, pixels[:16])
    second, _ = follow(background, pixels[16:])
    assert torch.equal(whole, torch.cat([first, second]))


def test_what_stays_fades_into_the_background() -> None:
    empty, bag = torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.5)
    _, background = follow(None, torch.stack([empty] * 32))
    differences, _ = follow(background, torch.stack([bag] * 60))
    assert differences[10].mean() > 0.3
    assert differences[-1].abs().max() < 0.01


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    speaker = load_model("nano", "cpu")
    model = VideoXL2(speaker.model.config)
    with pytest.raises(ModelUnusable, match=r"missing.*model\.embed_tokens\.weight.*stranger"):
        load_weights(model, {"stranger": torch.zeros(1)})


def test_a_folder_without_a_model_is_refused() -> None:
    with pytest.raises(ModelUnusable, match=r"no config\.json"):
        load_model("no/such/folder", "cpu")


def test_nano_fits_in_the_package() -> None:
    files = Snapshot.find("nano").files
    assert len(files) == 3
    assert sum((NANO / file).stat().st_size for file in files) < 15_000_000


def test_nano_sees_the_fire_of_the_demo() -> None:
    speaker = load_model("nano", "cpu")
    burning = watch(speaker, random_fire())
    quiet = watch(speaker, demo_scene(90, anomaly=False))
    assert burning[0] > 0 > quiet[0]


def random_fire() -> Scene:
    return next(
        scene
        for scene in (random_scene(FRESH + 7000 + n, 32, rate=0.5) for n in range(1000))
        if [event.kind for event in scene.events] == [Kind.FIRE] and 10 < scene.events[0].start < 20
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nano_tells_unusual_from_usual() -> None:
    areas = evaluate(load_model("nano", "cpu"), 200)
    assert areas["anything"] >= 0.90, areas


def test_auc_counts_pairs_in_order() -> None:
    assert auc([1, 2, 3, 4], [False, False, True, True]) == 1.0
    assert auc([4, 3, 2, 1], [False, False, True, True]) == 0.0
    assert auc([1, 1], [True, False]) == 0.5
