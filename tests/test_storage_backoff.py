"""One backoff for everything that is tried again."""

from hypothesis import example, given
from hypothesis import strategies as st

from storage.backoff import MAX_SECONDS, backoff_seconds

FAILURES = st.integers(min_value=1, max_value=10**9)
CHANCES = st.floats(min_value=0, max_value=1)


@given(FAILURES, CHANCES, st.sampled_from([MAX_SECONDS, 300.0]))
@example(failures=1024, chance=1.0, longest=MAX_SECONDS)
def test_a_wait_is_between_one_second_and_the_longest(
    failures: int, chance: float, longest: float
) -> None:
    assert 1.0 <= backoff_seconds(failures, chance, longest) <= longest


def test_the_ceiling_doubles_and_what_is_below_is_chance() -> None:
    assert [backoff_seconds(n, 1.0) for n in (1, 2, 3, 5, 1024)] == [2.0, 4.0, 8.0, 30.0, 30.0]
    assert [backoff_seconds(n, 0.0) for n in (1, 5, 1024)] == [1.0, 1.0, 1.0]
    assert backoff_seconds(20, 1.0, max_seconds=300.0) == 300.0
