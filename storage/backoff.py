"""How long to wait before something that failed is tried again."""

MIN_SECONDS, MAX_SECONDS = 1.0, 30.0
_MAX_DOUBLINGS = 16  # 2.0**1024 is no float, and a role can fail for months


def backoff_seconds(failures: int, jitter: float, max_seconds: float = MAX_SECONDS) -> float:
    """Return the seconds to wait after a number of failures in a row; `chance` is in 0..1.

    Full jitter: anything from one second up to a ceiling that doubles each time, `longest` at
    most.
    """
    ceiling = min(max_seconds, 2.0 ** min(failures, _MAX_DOUBLINGS))
    return MIN_SECONDS + jitter * (ceiling - MIN_SECONDS)
