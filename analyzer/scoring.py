"""From margins to answers."""

import math

from storage.records import Answer


def score(margin: float) -> float:
    """Return the probability of yes that a margin logit(yes) - logit(no) stands for."""
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, margin))))


def answer(margin: float) -> Answer:
    """Return yes for a positive margin."""
    return Answer.YES if margin > 0 else Answer.NO
