"""The renderer: geometry, what happens and when, light, and reels."""

import io
from pathlib import Path as FilePath

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from analyzer.nano import CLIPS_FOLDER, FIRE_CLIP, QUIET_CLIP
from analyzer.nano.workshop.clips import FPS, HEIGHT, SECONDS, WIDTH
from analyzer.nano.workshop.renderer.camera import ASPECT, PinholeCamera
from analyzer.nano.workshop.renderer.events import (
    EVENT_MAKERS,
    LOITERING_AFTER,
    ActorsAndEvent,
    EventKind,
)
from analyzer.nano.workshop.renderer.everyday import luggage, sitting, walkers
from analyzer.nano.workshop.renderer.path import Path
from analyzer.nano.workshop.renderer.people import Person
from analyzer.nano.workshop.renderer.places import ScenePlace, random_place
from analyzer.nano.workshop.renderer.sensor import Light
from analyzer.nano.workshop.renderer.things import Bag, Vehicle
from analyzer.nano.workshop.scenes import RenderedScene, demo_scene, random_scene
from analyzer.nano.workshop.school.reels import LABELS, Reel, outline_of, through_h264


def made(kind: EventKind, seed: int) -> tuple[ScenePlace, ActorsAndEvent]:
    r = np.random.default_rng(seed)
    place = random_place(r, None, zone=True, road=True)
    return place, EVENT_MAKERS[kind](r, place, 24.0, 40.0)


def test_a_scene_is_a_function_of_its_seed() -> None:
    one, same, other = (random_scene(seed, 32).picture(9.5, 96, 64) for seed in (5, 5, 6))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_picture_is_nearly_the_same_at_any_size() -> None:
    scene = random_scene(8, 32, light=Light.DAY)
    small = scene.picture(10.0, 96, 64).astype(float)
    large = Image.fromarray(scene.picture(10.0, 384, 256)).resize((96, 64))
    assert abs(small - np.asarray(large)).mean() < 12


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_what_a_camera_sees_on_the_ground_it_projects_back(seed: int) -> None:
    camera = PinholeCamera.random(np.random.default_rng(seed))
    near, far = camera.ground_point(0.6, 0.9), camera.ground_point(0.6, 0.6)
    assert near is not None
    assert far is not None
    assert camera.picture_point(*near) == pytest.approx((0.6, 0.9))
    (x, y, _), *_ = camera.project(np.array([[near[0], 0.0, near[1]]]))
    assert (x, y) == pytest.approx((0.6, 0.9))
    assert camera.scale(*near) > camera.scale(*far)


def test_a_path_knows_how_far_how_fast_and_whereto() -> None:
    path = Path.through([(0, 0, 0), (10, 0, 10), (14, 0, 10), (19, -5, 10)])
    assert path.at(5) == (0, 5)
    assert path.at(-3) == (0, 0)
    assert path.at(99) == (-5, 10)
    assert path.walked(12) == 10
    assert path.speed(5) == pytest.approx(1)
    assert path.speed(12) == 0
    assert path.heading(5) == 0
    assert path.heading(12) == 0
    assert path.heading(16) == pytest.approx(-np.pi / 2)
    assert path.beside(1, 2).at(5) == (1, 7)


@pytest.mark.parametrize("kind", list(EventKind))
def test_an_event_can_be_seen_where_and_when_it_is_told(kind: EventKind) -> None:
    scene = next(
        scene
        for scene in (random_scene(seed, 48, rate=1.0, light=Light.DAY) for seed in range(200))
        if any(e.kind is kind and e.start > 4 and e.end < 46 for e in scene.events)
        and len(scene.events) > 1
    )
    event = next(e for e in scene.events if e.kind is kind)
    middle = (event.start + event.end) / 2
    marked = {mark.label for mark in scene.marks(middle)}
    wanted = {
        EventKind.LOITERING: "person",
        EventKind.FALL: "lying",
        EventKind.FIGHT: "fighting",
        EventKind.INTRUSION: "intruder",
        EventKind.ABANDONED: "abandoned",
        EventKind.FIRE: "fire",
        EventKind.WRONG_WAY: "against",
        EventKind.CROWD: "crowd",
    }
    assert wanted[kind] in marked
    assert marked <= set(LABELS)
    assert 0 <= event.x <= 1
    gone = [a for a in scene.actors if a.start <= middle < a.end]
    empty = RenderedScene(
        place=scene.place,
        sensor=scene.sensor,
        sun_XZ=scene.sun_XZ,
        actors=tuple(a for a in scene.actors if a not in gone),
        events=scene.events,
        seed=scene.seed,
    )
    assert not np.array_equal(scene.picture(middle, 192, 128), empty.picture(middle, 192, 128))


@pytest.mark.parametrize("seed", range(6))
def test_a_loiterer_has_stayed_for_long_about_one_place(seed: int) -> None:
    _, ((person,), event) = made(EventKind.LOITERING, seed)
    at = np.array([person.at(t) for t in np.arange(event.start - LOITERING_AFTER + 0.1, event.end)])
    assert np.ptp(at, axis=0).max() < 9
    assert event.end - event.start >= 4


@pytest.mark.parametrize("seed", range(6))
def test_an_intruder_is_in_the_zone_and_passers_by_never_are(seed: int) -> None:
    place, ((person,), event) = made(EventKind.INTRUSION, seed)
    assert place.zone is not None
    at = np.array([person.at(t) for t in np.arange(event.start + 0.3, event.end - 0.3, 0.5)])
    assert place.zone.contains(at[:, 0], at[:, 1], 0.4).mean() > 0.8
    r = np.random.default_rng(seed)
    for actor in [a for t in range(12) for a in walkers(r, place, float(t))]:
        steps = np.array([actor.at(t) for t in np.arange(actor.start, actor.end, 0.25)])
        assert not place.zone.contains(steps[:, 0], steps[:, 1]).any()


@pytest.mark.parametrize("seed", range(6))
def test_nobody_is_with_an_abandoned_bag(seed: int) -> None:
    _, (actors, event) = made(EventKind.ABANDONED, seed)
    (bag,) = (actor for actor in actors if isinstance(actor, Bag))
    for t in np.arange(event.start + 1, event.end - 5, 0.5):
        present = [a for a in actors if isinstance(a, Person) and a.start <= t < a.end]
        assert all(np.hypot(*np.subtract(a.at(t), bag.at(t))) > 1.2 for a in present)
        assert bag.start <= t < bag.end


@pytest.mark.parametrize("seed", range(6))
def test_a_vehicle_that_goes_the_wrong_way_goes_against_the_road(seed: int) -> None:
    place, ((car,), event) = made(EventKind.WRONG_WAY, seed)
    assert isinstance(car, Vehicle)
    assert place.road is not None
    turn = car.path.heading((event.start + event.end) / 2) - place.road.heading
    assert np.cos(turn) < -0.99
    assert event.end - event.start > 1.5


def test_a_crowd_is_many_people() -> None:
    for seed in range(5):
        _, (actors, event) = made(EventKind.CROWD, seed)
        present = [a for a in actors if a.start <= (event.start + event.end) / 2 < a.end]
        assert len(present) >= 6


def test_busy_normal_scenes_hold_what_only_looks_like_an_event() -> None:
    r = np.random.default_rng(4)
    place = random_place(r, None, zone=False, road=False)
    sat = [a for _ in range(6) for a in sitting(r, place, 10.0)]
    assert {m.label for a in sat for t in range(9, 20) for m in a.marks(t, place.camera)} >= {
        "sitting"
    }
    person, bag = luggage(r, place, 10.0)
    assert np.hypot(*np.subtract(person.at(11.0), bag.at(11.0))) < 1.2
    assert {mark.label for mark in bag.marks(11.0, place.camera)} == {"bag"}
    assert all(random_scene(seed, 64, rate=0).events == () for seed in range(5))


def test_infrared_is_grey_and_night_is_told() -> None:
    infrared = random_scene(3, 16, light=Light.INFRARED)
    red, green, blue = np.moveaxis(infrared.picture(4.0, 96, 64), -1, 0)
    assert np.array_equal(red, green)
    assert np.array_equal(green, blue)
    assert infrared.light is Light.INFRARED
    assert random_scene(3, 16, light=Light.NIGHT).light is Light.NIGHT


def test_quiet_demo_has_no_event_and_the_other_has_one() -> None:
    assert demo_scene(90, anomaly=False).events == ()
    (event,) = demo_scene(90, anomaly=True).events
    assert event.kind is EventKind.FIRE
    assert 16 < event.start < event.end < 90


@pytest.mark.parametrize("clip", [FIRE_CLIP, QUIET_CLIP])
def test_a_clip_of_the_demo_shows_its_scene(clip: str) -> None:
    path = CLIPS_FOLDER / clip
    assert path.stat().st_size < 2_000_000
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        assert container.streams.video[0].codec_context.name == "h264"
        assert not container.streams.video[0].codec_context.has_b_frames
    assert len(frames) == SECONDS * FPS
    assert all(frame.key_frame for frame in frames[::FPS])
    scene = demo_scene(SECONDS, anomaly=clip == FIRE_CLIP)
    for t in (4, 50):
        shown = frames[t * FPS].to_ndarray(format="rgb24").astype(float)
        assert abs(shown - scene.picture(t, WIDTH, HEIGHT)).mean() < 6


def test_a_jpeg_shows_the_picture() -> None:
    scene = random_scene(2, 16)
    shown = np.asarray(Image.open(io.BytesIO(scene.jpeg(3.0, 128, 95)))).astype(float)
    assert shown.shape == (128, round(128 * ASPECT), 3)
    assert abs(shown - scene.picture(3.0, 192, 128)).mean() < 6


def test_pictures_come_out_of_h264_in_order_and_a_little_worse() -> None:
    scene = random_scene(11, 16)
    pictures = [scene.picture(t, 192, 128) for t in range(8)]
    back = through_h264(pictures, crf=24)
    assert len(back) == len(pictures)
    far = [[abs(a.astype(float) - b).mean() for b in pictures] for a in back]
    assert all(0 < far[n][n] < 12 for n in range(8))


def test_a_reel_comes_back_from_its_file(tmp_path: FilePath) -> None:
    scene = random_scene(4, 16, rate=1.0)
    known = outline_of(scene, 16)
    reel = Reel(
        jpegs=tuple(scene.jpeg(t, 64, 80) for t in range(3)),
        marks_M4=known.marks_M4,
        counts_N=known.counts_N,
        events=known.events,
    )
    reel.write(tmp_path / "reel.npz")
    read = Reel.read(tmp_path / "reel.npz")
    assert read.jpegs == reel.jpegs
    assert read.events == reel.events
    assert np.array_equal(read.marks_M4, reel.marks_M4)
    assert [read.people(t) for t in range(16)] == [scene.people(t) for t in range(16)]
