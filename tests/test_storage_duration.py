from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.duration import parse_duration

patient = settings(deadline=None)  # a busy machine is no failure


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("16s", 16),
        ("2m", 120),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("1d2h3m4s5ms", 93784.005),
    ],
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "16",
        "s",
        "-1s",
        "1.5s",
        "1 s",
        "1s1m",
        "16S",
        "1w",
        "1s\n",
        "٣s",
        "9" * 400 + "s",
        16,
        None,
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(text: object) -> None:
    with pytest.raises(ValueError, match="16s"):
        parse_duration(text)


@patient
@given(st.text(alphabet="0123456789dhms", max_size=30))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert parse_duration(text) >= timedelta()
