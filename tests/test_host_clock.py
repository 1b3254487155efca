"""The host's clock is followed at once, but a step ahead that may be a mistake."""

import pytest

from ingest.timing.host_clock import ACCEPTED_AFTER, SLEW_LIMIT, HostClock


class Clocks:
    """A wall clock that can be set, and a steady one."""

    def __init__(self) -> None:
        self.steady, self.ahead = 0.0, 1_000_000.0
        self.host = HostClock(wall=lambda: self.steady + self.ahead, steady=lambda: self.steady)

    @property
    def error(self) -> float:
        """How far the host's time, as it is followed, is from the wall clock."""
        return round(self.host.now() - self.steady - self.ahead, 6)

    def steps(self, seconds: int) -> list[tuple[int, float]]:
        """Follow the clock for so many seconds; return when it stepped, and by how much."""
        found = []
        for _ in range(seconds):
            self.steady += 1
            step = self.host.check_step()
            if step is not None:
                self.host.apply_step(step)
                found.append((round(self.steady), step))
        return found


@pytest.mark.parametrize("by", [-3600.0, -1.0, 1.0, 5.0])
def test_step_back_and_small_step_ahead_are_followed_at_once(by: float) -> None:
    clocks = Clocks()
    clocks.ahead += by
    assert clocks.steps(10) == [(1, by)]
    assert clocks.error == 0


def test_large_step_ahead_is_followed_once_it_has_lasted() -> None:
    clocks = Clocks()
    clocks.ahead += 3600
    assert clocks.steps(int(ACCEPTED_AFTER)) == []
    assert clocks.error == -3600
    assert clocks.steps(10) == [(ACCEPTED_AFTER + 1, 3600.0)]
    assert clocks.error == 0


def test_clock_that_jumps_ahead_and_comes_back_moved_nothing() -> None:
    clocks = Clocks()
    for _ in range(3):
        clocks.ahead += 3600
        assert clocks.steps(40) == []
        clocks.ahead -= 3600
        assert clocks.steps(40) == []
    assert clocks.error == 0


@pytest.mark.parametrize("by", [-SLEW_LIMIT, SLEW_LIMIT])
def test_small_difference_is_slewed(by: float) -> None:
    clocks = Clocks()
    clocks.ahead += by
    before = clocks.host.now()
    assert clocks.steps(10) == []
    assert 9.8 <= clocks.host.now() - before <= 10.2
    assert clocks.steps(60) == []
    assert clocks.error == 0


def test_drift_is_followed() -> None:
    clocks = Clocks()
    for _ in range(1000):
        clocks.ahead += 200e-6
        assert clocks.steps(1) == []
        assert abs(clocks.error) < 0.001
