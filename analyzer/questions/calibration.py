"""From margins to probabilities, per camera and question.

A model may mistake the usual view of one camera for an event. If the usual margin of a question on
a camera is high, a margin counts only by its excess over the usual ones. Median and median
deviation are robust: an event changes them only if it lasts for half of the history.
"""

import math
from collections import deque
from statistics import median

HISTORY = 512
"""Answers in the history: 2 h 16 min at one every 16 s."""
MIN_HISTORY = 128
"""With fewer answers, margins are not corrected."""
SIGMA_PER_MAD = 1.4826
"""The standard deviation of a normal distribution, in median deviations."""
SIGMAS_ABOVE = 3.0
"""Standard deviations above the usual margin at which yes and no are equally likely."""


def probability_of(margin: float, even_odds: float = 0.0) -> float:
    """Return the probability of yes for a margin logit(yes) - logit(no).

    Raises ValueError for NaN.
    """
    if math.isnan(margin):
        raise ValueError("a margin that is not a number has no probability")
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, margin - even_odds))))


class Calibration:
    """The last margins of every question on every camera."""

    def __init__(self) -> None:
        self._history: dict[tuple[str, str, str], deque[float]] = {}

    def observe(self, key: tuple[str, str, str], margin: float) -> float:
        """Return the probability of yes for a margin, and add the margin to the history.

        `key` is camera, question and question version. The correction never raises a probability.
        """
        history = self._history.setdefault(key, deque(maxlen=HISTORY))
        probability = probability_of(margin, even_odds_margin(history))
        history.append(margin)
        return probability

    def forget(self, camera: str) -> None:
        """Drop the history of a camera."""
        for key in [key for key in self._history if key[0] == camera]:
            del self._history[key]


def even_odds_margin(history: deque[float]) -> float:
    """Return the margin of probability 0.5; 0 unless the usual margins are high."""
    if len(history) < MIN_HISTORY:
        return 0.0
    middle = median(history)
    spread = SIGMA_PER_MAD * median(abs(margin - middle) for margin in history)
    return max(0.0, middle + SIGMAS_ABOVE * spread)
