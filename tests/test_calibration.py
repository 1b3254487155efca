"""From margins to probabilities: what is no number stands for none."""

import math

import pytest

from analyzer.questions.calibration import Calibration, probability_of


def test_a_margin_that_is_no_number_is_refused_and_leaves_no_trace() -> None:
    with pytest.raises(ValueError, match="not a number"):
        probability_of(math.nan)
    calibration, key = Calibration(), ("dock", "fire", "1")
    for _ in range(200):
        calibration.observe(key, 1.0)
    with pytest.raises(ValueError, match="not a number"):
        calibration.observe(key, math.nan)
    assert calibration.observe(key, 2.0) == pytest.approx(probability_of(1.0))


def test_a_margin_beyond_all_bounds_is_certain() -> None:
    assert probability_of(math.inf) == pytest.approx(1)
    assert probability_of(-math.inf) == pytest.approx(0)
