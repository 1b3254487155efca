"""From margins to probabilities: what is no number stands for none."""

import math

import pytest

from analyzer.calibration import Calibration, score


def test_a_margin_that_is_no_number_is_refused_and_leaves_no_trace() -> None:
    with pytest.raises(ValueError, match="no number"):
        score(math.nan)
    calibration, key = Calibration(), ("dock", "fire", "1")
    for _ in range(200):
        calibration.probability(key, 1.0)
    with pytest.raises(ValueError, match="no number"):
        calibration.probability(key, math.nan)
    assert calibration.probability(key, 2.0) == pytest.approx(score(1.0))


def test_a_margin_beyond_all_bounds_is_certain() -> None:
    assert score(math.inf) == pytest.approx(1)
    assert score(-math.inf) == pytest.approx(0)
