"""How long to wait before something that failed is tried again."""

SHORTEST, LONGEST = 1.0, 30.0
_MOST_DOUBLINGS = 16  # 2.0**1024 is no float, and a role can fail for months


def backoff(failures: int, chance: float, longest: float = LONGEST) -> float:
    """Return the seconds to wait after a number of failures in a row; `chance` is in 0..1.

    Full jitter: anything from one second up to a ceiling that doubles each time, `longest` at
    most.
    """
    ceiling = min(longest, 2.0 ** min(failures, _MOST_DOUBLINGS))
    return SHORTEST + chance * (ceiling - SHORTEST)
