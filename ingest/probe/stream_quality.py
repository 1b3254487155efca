"""Measure a stream's timestamps, arrivals and keyframes from a few seconds of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from statistics import median

from ingest.timing.stream_time import GAP_STEPS

_MAX_AHEAD = 1.0
"""Seconds by which a timestamp may run ahead of arrivals; more for a slow camera."""
_SAME_TIMESTAMP = 1e-4
_MIN_PAUSE = 1.0
"""Seconds without a picture that are a pause; more for a slow camera."""
_BURST_SHARE = 0.2
"""In usual steps: pictures closer together arrived at once."""
_SETTLE_SECONDS = 1.0
"""Seconds at the start in which a relay may send what it has buffered."""
_MIN_SPAN = 3.0
_MIN_PICTURES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSample:
    """A picture: its timestamp, when it arrived, and when it was seen (`StreamTime`), in seconds.

    In a file `arrived` is when it was recorded.
    """

    pts: float | None
    arrived: float
    at: float
    is_timestamp_used: bool
    is_keyframe: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TimestampQuality:
    """The quality of timestamps.

    `believed` is the share of pictures, 0 to 1, whose timestamp is used. `missing` to `ahead` are
    counts. `rate` is the timestamp seconds in a real second; None if too few pictures came.
    """

    believed: float
    missing: int
    equal: int
    back: int
    ahead: int
    rate: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalQuality:
    """The arrival of pictures: `fps` a second, and its irregularities.

    `pauses` is a count, `longest_pause` the longest time between two pictures in seconds, and
    `longest_burst` the most pictures that came at once.
    """

    fps: float
    pauses: int
    longest_pause: float
    longest_burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyframeQuality:
    """The number of keyframes, and their interval in seconds: median, shortest and longest.

    Intervals are None for fewer than two keyframes. `at_least` is the longest time without one.
    """

    count: int
    interval: float | None
    shortest: float | None
    longest: float | None
    at_least: float


def measure_timestamps(samples: Sequence[FrameSample]) -> TimestampQuality:
    """Return the quality of the pictures' timestamps."""
    steps = _steps(samples)
    kinds = [step.kind for step in steps]
    return TimestampQuality(
        believed=_share(sum(each.is_timestamp_used for each in samples), len(samples)),
        missing=sum(each.pts is None for each in samples),
        equal=kinds.count("equal"),
        back=kinds.count("back"),
        ahead=kinds.count("ahead"),
        rate=_rate([step for step in steps if step.kind in {"on", "equal"}]),
    )


def measure_arrivals(samples: Sequence[FrameSample]) -> ArrivalQuality:
    """Return the quality of the pictures' arrivals."""
    instants = [each.arrived for each in samples]
    settled = [at for at in instants if at - instants[0] >= _SETTLE_SECONDS]
    instants = settled if len(settled) > 1 else instants
    gaps = [after - before for before, after in pairwise(instants)]
    fps = _fps(instants)
    step = 1 / fps if fps else 0.0
    return ArrivalQuality(
        fps=fps,
        pauses=sum(gap > max(_MIN_PAUSE, GAP_STEPS * step) for gap in gaps),
        longest_pause=max(gaps, default=0.0),
        longest_burst=_longest_burst(gaps, _BURST_SHARE * step) if samples else 0,
    )


def recorded_rate(samples: Sequence[FrameSample]) -> float:
    """Return the pictures a second of a file; 0 if there are too few."""
    return _fps([each.at for each in samples])


def measure_keyframes(samples: Sequence[FrameSample], since: float) -> KeyframeQuality:
    """Return the keyframe intervals; `since` is when the wait for the first one started."""
    keyframes = [each for each in samples if each.is_keyframe]
    skip = len(keyframes) > 2 and keyframes[0].pts is None and keyframes[1].is_timestamp_used
    # FFmpeg returns the first pictures all at once, and the very first one without a timestamp.
    steps = [_seconds_between(before, after) for before, after in pairwise(keyframes[skip:])]
    ends = [since, *(each.at for each in keyframes), *(each.at for each in samples[-1:])]
    return KeyframeQuality(
        count=len(keyframes),
        interval=median(steps) if steps else None,
        shortest=min(steps, default=None),
        longest=max(steps, default=None),
        at_least=max((after - before for before, after in pairwise(ends)), default=0.0),
    )


def _seconds_between(before: FrameSample, after: FrameSample) -> float:
    """Return the seconds between two pictures, by their timestamps if both are used."""
    is_used = before.is_timestamp_used and after.is_timestamp_used
    if before.pts is None or after.pts is None or not is_used:
        return after.at - before.at
    return after.pts - before.pts


@dataclass(frozen=True, slots=True, kw_only=True)
class _TimestampStep:
    """The seconds between two pictures, by timestamp and by arrival."""

    stamped: float
    arrived: float
    kind: str


def _steps(samples: Sequence[FrameSample]) -> list[_TimestampStep]:
    timed = [(each.pts, each.arrived) for each in samples if each.pts is not None]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(timed)]
    usual = median([stamped for stamped, _ in steps if stamped > _SAME_TIMESTAMP] or [0.0])
    return [
        _TimestampStep(stamped=stamped, arrived=arrived, kind=_step_kind(stamped, arrived, usual))
        for stamped, arrived in steps
    ]


def _step_kind(stamped: float, arrived: float, usual: float) -> str:
    if abs(stamped) <= _SAME_TIMESTAMP:
        return "equal"
    if stamped < 0:
        return "back"
    return "ahead" if stamped - arrived > max(_MAX_AHEAD, GAP_STEPS * usual) else "on"


def _rate(steps: Sequence[_TimestampStep]) -> float | None:
    """Return the timestamp seconds per second, by the least late picture of each half."""
    offsets, arrived, stamped = [(0.0, 0.0)], 0.0, 0.0
    for step in steps:
        arrived, stamped = arrived + step.arrived, stamped + step.stamped
        offsets.append((arrived, arrived - stamped))
    halves = (
        [each for each in offsets if each[0] < arrived / 2],
        [each for each in offsets if each[0] >= arrived / 2],
    )
    if arrived < _MIN_SPAN or min(map(len, halves)) < _MIN_PICTURES / 2:
        return None
    (first, early), (last, late) = (min(half, key=itemgetter(1)) for half in halves)
    return 1 - (late - early) / (last - first)


def _fps(instants: Sequence[float]) -> float:
    span = instants[-1] - instants[0] if instants else 0.0
    return (len(instants) - 1) / span if span > 0 else 0.0


def _longest_burst(gaps: Sequence[float], max_gap: float) -> int:
    longest = burst = 1
    for gap in gaps:
        burst = burst + 1 if gap < max_gap else 1
        longest = max(longest, burst)
    return longest


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
