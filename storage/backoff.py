"""How long to wait before a failed attempt is repeated."""

MIN_SECONDS, MAX_SECONDS = 1.0, 30.0
_MAX_DOUBLINGS = 16  # 2.0**1024 is no float, and a role can fail for months


def doubling_seconds(doublings: int, max_seconds: float, first: float = MIN_SECONDS) -> float:
    """Return a delay that starts at `first` seconds and doubles, up to `max_seconds`."""
    return min(max_seconds, first * 2.0 ** min(doublings, _MAX_DOUBLINGS))


def backoff_seconds(failures: int, jitter: float, max_seconds: float = MAX_SECONDS) -> float:
    """Return the seconds to wait after this many failures in a row; `jitter` is in 0..1.

    Full jitter: between one second and a ceiling that doubles with each failure.
    """
    ceiling = doubling_seconds(failures, max_seconds)
    return MIN_SECONDS + jitter * (ceiling - MIN_SECONDS)
