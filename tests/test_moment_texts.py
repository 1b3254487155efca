"""Spans of time and summaries out of a model's free text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analyzer.models.runner import ModelRunner
from analyzer.models.videoxl2.prompt import times_in_seconds
from analyzer.nano.workshop.moments import (
    SecondsSpan,
    UnclearAnswer,
    ask_what_happened,
    ask_when,
    parse_span,
)
from analyzer.nano.workshop.prefill import encode_and_prefill
from kit.model.small_model import small_runner, window

SHOWN = SecondsSpan(start=0.0, end=600.0)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("12.0s - 30.5s", 12.0, 30.5),
        ("The event happens in the 24.3 - 30.4 seconds.", 24.3, 30.4),
        ("From 12 to 15.5.", 12.0, 15.5),
        ("Between 3 seconds and 5 seconds, a man falls.", 3.0, 5.0),
        ("1:05 – 2:10", 65.0, 130.0),
        ("It begins: 00:07.5 until 0:09", 7.5, 9.0),
        ("2 men, 40s to 44s", 40.0, 44.0),
        ("5-5", 5.0, 5.0),
    ],
)
def test_span_is_read(text: str, start: float, end: float) -> None:
    assert parse_span(text, SHOWN) == SecondsSpan(start=start, end=end)


@pytest.mark.parametrize("text", ["never", "Never.", "It does not happen.", "No such event"])
def test_denial_is_no_span(text: str) -> None:
    assert parse_span(text, SHOWN) is None


@pytest.mark.parametrize(
    "text",
    ["", "at night", "30 - 12", "590 - 601 seconds", "about 12 seconds", "1e9 - 2e9", "-5 - 3"],
)
def test_what_is_no_span_within_the_video_is_unclear(text: str) -> None:
    with pytest.raises(UnclearAnswer):
        parse_span(text, SHOWN)


@given(st.text(max_size=60))
@example("9" * 60 + " - 1")
def test_any_text_is_a_span_within_or_nothing(text: str) -> None:
    try:
        span = parse_span(text, SHOWN)
    except UnclearAnswer:
        return
    assert span is None or 0 <= span.start <= span.end <= 600


@given(st.floats(0, 600), st.floats(0, 600))
def test_a_span_survives_being_written(a: float, b: float) -> None:
    start, end = sorted((round(a, 1), round(b, 1)))
    assert parse_span(f"{start:.1f}s - {end:.1f}s", SHOWN) == SecondsSpan(start=start, end=end)


def test_minutes_are_asked_for_as_seconds() -> None:
    assert (
        times_in_seconds("Who came at 2:05, who at 13:00?")
        == "Who came at 125 seconds, who at 780 seconds?"
    )
    assert times_in_seconds("at 12:00:30 or 1:75") == times_in_seconds("at 12:00:30 or 1:75")


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return small_runner()


def test_an_untrained_model_is_asked_and_not_believed(runner: ModelRunner) -> None:
    """The whole path through the model; random weights say nothing that could be a span."""
    jpegs = [still.jpeg for still in window().stills]
    chunk = encode_and_prefill(runner, jpegs, range(16), None, ())[0]
    said = ask_what_happened(runner, SecondsSpan(start=0, end=15), [chunk])
    assert said == ask_what_happened(runner, SecondsSpan(start=0, end=15), [chunk])
    with pytest.raises(UnclearAnswer):
        ask_when(runner, "a fire", [chunk], SecondsSpan(start=0, end=15))
