"""How nano is measured: what is counted, on which clips, and that the whole runs."""

import json
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from analyzer.models.runner import ModelRunner
from analyzer.nano.workshop.exam import clips, streams
from analyzer.nano.workshop.exam.baselines import features, fit, motion
from analyzer.nano.workshop.exam.clips import (
    ASKS,
    CHOOSING_SEEDS,
    FITTING_SEEDS,
    FRESH_SEEDS,
    SECONDS,
    SEEDS_PER_RUN,
    ClipAnswers,
    SpanScore,
    fresh_scenes,
    prefill_clip,
    score_spans,
)
from analyzer.nano.workshop.exam.evaluate import last_line
from analyzer.nano.workshop.exam.figures import figures_of, real_rows
from analyzer.nano.workshop.exam.measures import (
    Alarm,
    auc,
    balanced_accuracy,
    best_balanced_accuracy,
    iou,
    match_alarms,
)
from analyzer.nano.workshop.exam.streams import StreamResult, alarms_of, kinds_of, rows_of
from analyzer.nano.workshop.lessons.facts import MIN_VISIBLE_SECONDS
from analyzer.nano.workshop.lessons.lessons import ANOMALY_ASKS, KIND_ASKS
from analyzer.nano.workshop.moments import SecondsSpan
from analyzer.nano.workshop.renderer.events import EventKind, SceneEvent
from analyzer.nano.workshop.renderer.sensor import Light
from deploy.config.settings_file import read_settings
from kit.deploy.command import ROOT
from kit.model.small_model import BEGIN, small_runner, still

NAN = float("nan")


def event(kind: EventKind, start: float, end: float) -> SceneEvent:
    return SceneEvent(kind=kind, start=start, end=end, x=0.5, y=0.5)


def alarm(kind: EventKind, opened: float, closed: float | None = None) -> Alarm:
    return Alarm(kind=kind, opened=opened, closed=closed)


def judged(truths: dict[EventKind, bool], margin: float, **more: Any) -> ClipAnswers:
    """A clip of which all questions get the same margin."""
    named = tuple(truths.get(kind, False) for kind in EventKind)
    fields = {
        "truths": (any(named), *named),
        "margins": ((margin,) * len(ASKS[0]),) * len(ASKS),
        "spans": (),
        "motion": 0.0,
        "features_F": torch.zeros(2),
        "decoding_ms": 1.0,
        "prefill_ms": 2.0,
        "light": Light.DAY,
    }
    return ClipAnswers(**{**fields, **more})


def test_auc_counts_pairs_in_order() -> None:
    assert auc([1, 2, 3, 4], [False, False, True, True]) == 1.0
    assert auc([4, 3, 2, 1], [False, False, True, True]) == 0.0
    assert auc([1, 1], [True, False]) == 0.5


@pytest.mark.parametrize("measure", [auc, balanced_accuracy, best_balanced_accuracy])
@pytest.mark.parametrize("truth", [True, False])
def test_one_side_alone_is_refused(measure: Any, truth: bool) -> None:
    with pytest.raises(ValueError, match="what is true and what is false"):
        measure([1.0, 2.0], [truth, truth])


def test_balanced_accuracy_weighs_both_sides_alike() -> None:
    truths = [True] + [False] * 4
    assert balanced_accuracy([1, -1, -1, -1, 1], truths) == (1 + 0.75) / 2
    assert balanced_accuracy([0, 0, 0, 0, 0], truths) == 0.5
    assert balanced_accuracy([3, 2, 2, 2, 2], truths, threshold=2) == 1.0


def test_best_threshold_is_never_worse_than_another() -> None:
    r = np.random.default_rng(0)
    for _ in range(20):
        margins, truths = r.normal(0, 2, 30).round(1).tolist(), (r.random(30) < 0.4).tolist()
        best = best_balanced_accuracy(margins, truths)
        assert all(balanced_accuracy(margins, truths, t) <= best for t in r.normal(0, 2, 20))
    assert best_balanced_accuracy([5, 6, 7, 8], [False, False, True, True]) == 1.0


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ((0, 10), (0, 10), 1.0),
        ((0, 10), (5, 15), 1 / 3),
        ((0, 10), (10, 20), 0.0),
        ((0, 5), (8, 9), 0.0),
        ((4, 4), (4, 4), 1.0),
    ],
)
def test_spans_share_what_both_cover(
    one: tuple[float, float], other: tuple[float, float], shared: float
) -> None:
    spans = [SecondsSpan(start=start, end=end) for start, end in (one, other)]
    assert iou(*spans) == iou(*spans[::-1]) == pytest.approx(shared)


def test_an_incident_in_time_tells_an_event() -> None:
    fire = event(EventKind.FIRE, 100, 130)
    for opened in (100.0, 148.0):
        matched = match_alarms([fire], [alarm(EventKind.FIRE, opened, opened + 60)])
        assert (matched.told, matched.delays) == ((fire,), (opened - 100,))
        assert matched.false == matched.missed == ()


def test_a_late_incident_is_not_false_and_tells_nothing() -> None:
    for opened in (149.0, 316.0):
        matched = match_alarms([event(EventKind.FIRE, 100, 300)], [alarm(EventKind.FIRE, opened)])
        assert matched.missed
        assert matched.false == ()


@pytest.mark.parametrize(
    "wrong",
    [
        alarm(EventKind.FALL, 110),
        alarm(EventKind.FIRE, 149),
        alarm(EventKind.FIRE, 83),
        alarm(EventKind.FIRE, 90, 99),
    ],
    ids=["another kind", "too late", "too early", "over before"],
)
def test_an_incident_about_nothing_is_false(wrong: Alarm) -> None:
    matched = match_alarms([event(EventKind.FIRE, 100, 120)], [wrong])
    assert matched.false == (wrong,)
    assert len(matched.missed) == 1


def test_two_events_at_once_both_count() -> None:
    events = event(EventKind.FIRE, 100, 130), event(EventKind.FALL, 110, 140)
    alarms = alarm(EventKind.FIRE, 112), alarm(EventKind.FALL, 128)
    matched = match_alarms(events, alarms)
    assert (matched.told, matched.delays, matched.false) == (events, (12, 18), ())


def test_an_incident_that_is_still_open_covers_the_next_event() -> None:
    events = event(EventKind.FIRE, 100, 130), event(EventKind.FIRE, 150, 180)
    matched = match_alarms(events, [alarm(EventKind.FIRE, 112, 200)])
    assert (matched.told, matched.delays) == (events, (12, None))
    closed = match_alarms(events, [alarm(EventKind.FIRE, 112, 149)])
    assert closed.missed == events[1:]


def test_a_false_incident_that_never_closes_covers_nothing() -> None:
    matched = match_alarms([event(EventKind.FIRE, 1000, 1030)], [alarm(EventKind.FIRE, 10)])
    assert matched.missed
    assert matched.false


def test_a_brief_event_excuses_an_incident_and_is_not_expected() -> None:
    matched = match_alarms([event(EventKind.FIRE, 100, 115)], [alarm(EventKind.FIRE, 112)])
    assert matched.told == matched.missed == matched.false == ()


def test_rates_are_of_hours_with_and_without_events() -> None:
    fire = event(EventKind.FIRE, 100, 130)
    eventful = match_alarms([fire], [alarm(EventKind.FIRE, 112), alarm(EventKind.FALL, 112)])
    busy = match_alarms([], [alarm(EventKind.FIRE, 12, 40), alarm(EventKind.FIRE, 80)])
    streams = [
        StreamResult(seed=1, seconds=1800, is_busy=False, matched=eventful),
        StreamResult(seed=2, seconds=3600, is_busy=True, matched=busy),
    ]
    rows = {row.name: row for row in rows_of(streams)}
    assert (rows["all"].expected, rows["all"].recall, rows["all"].delay_s) == (1, 1.0, 12)
    assert (rows["all"].false_per_eventful_hour, rows["all"].false_per_hour) == (2, 2)
    assert (rows["fall"].recall, rows["fall"].false_per_eventful_hour) == (None, 2)
    assert (rows["fire"].false_per_eventful_hour, rows["fire"].false_per_hour) == (0, 2)


def test_incidents_are_read_in_seconds_of_the_stream() -> None:
    times = {"opened_at": "2026-01-01T00:01:00+00:00", "closed_at": None}
    told = json.dumps({"incidents": [{"rule": "hot", **times}]})
    assert alarms_of(told, {"hot": EventKind.FIRE}) == [alarm(EventKind.FIRE, 60)]


def test_the_demo_asks_about_every_kind_and_has_a_rule_for_each(tmp_path: Path) -> None:
    text = streams.settings_text(streams.SETTINGS)
    assert sorted(kinds_of(text).values()) == sorted(EventKind)
    (tmp_path / "site.yaml").write_text(text)
    settings = read_settings(tmp_path / "site.yaml")
    trained = {"anything": ANOMALY_ASKS, **{kind.value: KIND_ASKS[kind] for kind in EventKind}}
    assert settings.questions.keys() == trained.keys()
    assert all(question.ask in trained[name] for name, question in settings.questions.items())
    assert all(rule.notify == ["here"] for rule in settings.rules)


def test_fresh_scenes_leave_no_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = (
        SECONDS - 16 + MIN_VISIBLE_SECONDS / 2,
        SECONDS - 16 + MIN_VISIBLE_SECONDS,
        10,
        SECONDS - 15,
    )

    def scripted(seed: int, *_: object, **__: object) -> Any:
        end = ends[(seed - FRESH_SEEDS) % len(ends)]
        return SimpleNamespace(events=(event(EventKind.FIRE, 5, end),), seed=seed)

    monkeypatch.setattr(clips, "random_scene", scripted)
    seeds = [scene.seed - FRESH_SEEDS for scene in islice(fresh_scenes(), 4)]
    assert seeds == [1, 2, 5, 6]


def test_fresh_scenes_come_in_every_light() -> None:
    assert {scene.light for scene in islice(fresh_scenes(), 9)} == set(Light)
    (dark,) = islice(fresh_scenes(FRESH_SEEDS + SEEDS_PER_RUN, Light.NIGHT), 1)
    assert dark.light is Light.NIGHT
    assert dark.seed >= FRESH_SEEDS + SEEDS_PER_RUN


def test_what_is_reported_is_never_chosen_or_fitted_by() -> None:
    assert FITTING_SEEDS + SEEDS_PER_RUN <= CHOOSING_SEEDS
    assert CHOOSING_SEEDS + 100 * SEEDS_PER_RUN <= FRESH_SEEDS


@pytest.mark.parametrize(
    ("said", "happened", "never"),
    [("12.0s - 28.0s", 0.5, 0.0), ("never", 0.0, 1.0), ("a bag", 0.0, 0.0), ("40 - 99", 0.0, 0.0)],
)
def test_a_span_told_is_held_against_the_truth(said: str, happened: float, never: float) -> None:
    runner = answers(said=said)
    events = (
        event(EventKind.FIRE, 20, 36),
        event(EventKind.FALL, 47, 60),
        *(event(EventKind.CROWD, start, start + 5) for start in (3, 30)),
    )
    scene = cast(Any, SimpleNamespace(events=events, seed=4))
    told = score_spans(runner, scene, ())
    assert [each.kind for each in told if each.happened] == [EventKind.FIRE]
    assert [each.overlap_in_words for each in told if each.happened] == [
        pytest.approx(happened * 2 / 3)
    ]
    (absent,) = (each for each in told if not each.happened)
    assert absent.kind not in {each.kind for each in events}
    assert absent.overlap_in_words == never


@pytest.mark.parametrize(
    ("windows", "groups", "right", "never"),
    [
        ((-1, 1, 1), (-1, 1, 1, -1), 16 / 24, 0),  # 20 to 44 s, where it was 20 to 36
        ((-1, 1, -1), (-1, -1, -1, -1), 12 / 20, 0),  # 16 to 32 s
        ((1, -1, 1), (1, -1, -1, 1), 0, 0),  # the first of two that are as long: 0 to 16 s
        ((-1, -1, -1), (1, 1, 1, 1), 0, 1),
    ],
)
def test_a_span_is_the_longest_stretch_of_windows_with_a_yes(
    windows: tuple[float, ...], groups: tuple[float, ...], right: float, never: float
) -> None:
    runner = answers(windows, groups)
    scene = cast(Any, SimpleNamespace(events=(event(EventKind.FIRE, 20, 36),), seed=4))
    chunks = [cast(Any, SimpleNamespace(split_groups=lambda _: range(4))) for _ in windows]
    fire, absent = score_spans(runner, scene, chunks)
    assert (fire.overlap, absent.overlap) == (pytest.approx(right), never)


def answers(
    windows: tuple[float, ...] = (), groups: tuple[float, ...] = (), said: str = "never"
) -> ModelRunner:
    """Return a speaker that answers so at the end of each window, and of groups by themselves."""
    return cast(
        ModelRunner,
        SimpleNamespace(
            generate=lambda *_: said,
            margins=lambda asks, behind: [windows[len(behind) - 1]] * len(asks),
            score=lambda inputs: [
                SimpleNamespace(margins=[groups[g]]) for each in inputs for g in each.context
            ],
        ),
    )


def test_spans_count_only_for_what_was_shown() -> None:
    scene = cast(Any, SimpleNamespace(events=(event(EventKind.FIRE, 40, 90),), seed=4))
    assert score_spans(answers(said="40.0s - 48.0s"), scene, ())[0].overlap_in_words == 1.0


def test_each_phrasing_has_a_curve_of_its_own() -> None:
    """Phrasings whose margins lie apart are not thrown together."""
    right, wrong = (1.0, 9.0, 5.0, -1.0, 0.0), (0.0, 8.0, 4.0, 1.0, 0.0)
    said = [
        judged({EventKind.FIRE: True}, 0, margins=(right,) * len(ASKS)),
        judged({}, 0, margins=(wrong,) * len(ASKS)),
    ]
    anything = figures_of(said, None).rows[0]
    assert (anything.auc, anything.seen, anything.unseen) == (1.0, 1.0, 0.25)


def test_figures_say_what_there_was_to_reckon_from() -> None:
    said = [
        judged({EventKind.FIRE: True}, 2.0, motion=3.0, light=Light.NIGHT),
        judged({EventKind.FALL: True}, 1.0, motion=1.0),
        judged({}, -1.0, motion=2.0, prefill_ms=9.0),
    ]
    told = SpanScore(kind=EventKind.FIRE, happened=True, overlap=0.5, overlap_in_words=0.25)
    said.append(judged({}, -2.0, spans=(told,)))
    figures = figures_of(said, None)
    rows = {row.name: row for row in figures.rows}
    assert (rows["fire"].positives, rows["fire"].clips, rows["fire"].auc) == (1, 4, 1.0)
    assert (rows["fire"].motion, rows["fire"].when_iou, rows["fire"].never) == (1.0, 0.5, None)
    assert (rows["fall"].auc, rows["fall"].balanced) == (2 / 3, pytest.approx(5 / 6))
    assert rows["fire"].when_in_words == 0.25
    assert rows["crowd"].auc is None
    assert [(row.light, row.any_auc) for row in figures.lights] == [("day", 1.0), ("night", None)]
    assert last_line(figures.summary) == (
        "any_auc=1.0000 min_event_auc=0.6667 min_event_balanced=0.8333 when_iou=0.5000"
        " unseen_phrasing_auc=0.8889 ms_per_still=2.0000"
    )
    assert last_line({"any_auc": None}) == "any_auc=nan"


def test_real_events_stand_against_normal_clips_alone() -> None:
    said = [
        judged({EventKind.FIRE: True}, 1.0),
        judged({EventKind.FALL: True}, 9.0),
        judged({}, 0.0),
    ]
    fire = next(row for row in real_rows(said, None) if row.name == EventKind.FIRE)
    assert (fire.clips, fire.positives, fire.auc) == (2, 1, 1.0)


def test_motion_is_none_where_nothing_moves() -> None:
    still = np.full((4, 8, 8, 3), 250, np.uint8)
    assert motion(still) == 0
    still[1::2] = 240
    assert motion(still) == 10


def test_per_still_baseline_learns_what_one_still_shows() -> None:
    r = torch.Generator().manual_seed(0)
    features_NF = torch.randn(200, 30, generator=r)
    truths_NQ = torch.stack([features_NF[:, 3] > 0, features_NF[:, 7] > 1], dim=1)
    fitted = fit(features_NF[:150], truths_NQ[:150])
    margins = [fitted.margins(features_F) for features_F in features_NF[150:]]
    for question in range(2):
        truths = truths_NQ[150:, question].tolist()
        assert auc([said[question] for said in margins], truths) > 0.9


def test_per_still_baseline_does_not_see_order() -> None:
    runner = small_runner()
    stills = np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), np.uint8)
    forwards, backwards = features(runner, stills), features(runner, stills[::-1].copy())
    assert forwards.shape == (2 * 64,)
    assert torch.allclose(forwards, backwards, atol=1e-5)


def test_looking_reads_every_window_and_keeps_the_last() -> None:
    runner = small_runner()
    jpegs = [still(BEGIN, shade).jpeg for shade in range(32)]
    looked = prefill_clip(runner, jpegs)
    assert len(looked.chunks) == 2
    assert looked.stills_NHWC.shape == (16, 32, 48, 3)
    assert looked.decoding_ms > 0
    assert looked.prefill_ms > 0


def evaluate(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "analyzer.nano.workshop.exam.evaluate", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_clips_are_evaluated_from_end_to_end() -> None:
    said = evaluate("--clips", 4, "--fit", 4, "--choosing").stdout
    names = "any_auc|min_event_auc|min_event_balanced|when_iou|unseen_phrasing_auc|ms_per_still"
    last = dict(pair.split("=") for pair in said.splitlines()[-1].split())
    assert "|".join(last) == names
    assert all(re.fullmatch(r"\d+\.\d{4}|nan", figure) for figure in last.values())
    output = json.loads(evaluate("--clips", 1, "--fit", 0, "--choosing", "--json").stdout)
    assert [row["name"] for row in output["rows"]] == ["anything", *EventKind]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_stream_goes_through_the_product() -> None:
    stream = streams.examine_stream(
        CHOOSING_SEEDS, 48, is_busy=True, model="nano", settings=streams.SETTINGS, light=None
    )
    assert stream.matched.told == stream.matched.missed == ()
    with pytest.raises(RuntimeError, match="no/such"):
        streams.examine_stream(
            CHOOSING_SEEDS, 16, is_busy=True, model="no/such", settings=streams.SETTINGS, light=None
        )
