"""From margins to probabilities, per camera and question.

A model may take the usual sight of one camera for something unusual. What it says there most of
the time is no news: where its usual margin lies high, a margin counts for as much as it rises
above the usual ones. Median and median deviation, so that an event shifts nothing unless it
lasts for half of what is looked back upon.
"""

import math
from collections import deque
from statistics import median

HISTORY = 512
"""Answers looked back upon: 2 h 16 min at one every 16 s."""
MIN_HISTORY = 128
"""With fewer, margins are taken as they are."""
SIGMA_PER_MAD = 1.4826
"""The standard deviation of a normal distribution, in median deviations."""
SIGMAS_ABOVE = 3.0
"""Standard deviations above the usual margin at which it is even odds."""


def probability_of(margin: float, even_odds: float = 0.0) -> float:
    """Return the probability of yes that a margin logit(yes) - logit(no) stands for.

    Raises ValueError for a margin that is no number.
    """
    if math.isnan(margin):
        raise ValueError("a margin that is no number stands for no probability")
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, margin - even_odds))))


class Calibration:
    """The trailing margins of every question on every camera."""

    def __init__(self) -> None:
        self._history: dict[tuple[str, str, str], deque[float]] = {}

    def observe(self, key: tuple[str, str, str], margin: float) -> float:
        """Return the probability of yes for a margin, and remember the margin.

        `key` is camera, question and the question's version. No probability is ever higher
        than the model's own.
        """
        history = self._history.setdefault(key, deque(maxlen=HISTORY))
        probability = probability_of(margin, even_odds_margin(history))
        history.append(margin)
        return probability

    def forget(self, camera: str) -> None:
        """Forget what was said of a camera."""
        for key in [key for key in self._history if key[0] == camera]:
            del self._history[key]


def even_odds_margin(history: deque[float]) -> float:
    """Return the margin that is even odds, 0 unless the usual ones lie high."""
    if len(history) < MIN_HISTORY:
        return 0.0
    middle = median(history)
    spread = SIGMA_PER_MAD * median(abs(margin - middle) for margin in history)
    return max(0.0, middle + SIGMAS_ABOVE * spread)
