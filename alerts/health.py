"""What rules see of the ledger of coverage: samples that say whether a camera is watched.

No model is needed for them. The ledger tells of a camera's latest interval whenever that grows
or changes its state; each `health/...` question is then answered by 1, where the state is one of
its own, or 0. An interval that answers 1 is told from its begin on, so that an incident begins
when the camera went down and not when that was noticed.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from alerts.rules import Sample

PREFIX = "health/"
HEALTH = {
    "camera_down": frozenset({"camera_down"}),
    "frozen": frozenset({"frozen"}),
    "covered": frozenset({"covered"}),
    "unwatched": frozenset({"camera_down", "ingest_down", "analyzer_down", "shed", "corrupt"}),
}
"""The states of the ledger in which each answer is yes; in `waiting` nobody knows of the last."""
_UNKNOWN = {("unwatched", "waiting")}
UNHEARD_AFTER = timedelta(minutes=1)
"""A ledger that ends longer ago than this says by its silence that nobody watches."""
UNDELIVERED = "undelivered"
"""Answered for a receiver, not for a camera, and only by yes: somebody was not told."""


def health_samples(
    camera: str, state: str, start: datetime, end: datetime, id: str = ""
) -> Iterator[Sample]:
    """Yield what an interval of the ledger says, in order; `id` stands for it as evidence."""
    id = id or f"{camera}@{start.isoformat(timespec='milliseconds')}/{state}"
    for name, states in HEALTH.items():
        if (name, state) in _UNKNOWN:
            continue
        holds = state in states
        for at in (start, end) if holds else (end,):
            yield _sample(camera, name, at, f"{id}/{at.isoformat()}", holds=holds)


def unheard_samples(camera: str, end: datetime, now: datetime) -> Iterator[Sample]:
    """Yield that nobody watches a camera whose ledger ended longer ago than `UNHEARD_AFTER`.

    Ask only while all claims that are in the log are in the ledger.
    """
    if now - end > UNHEARD_AFTER:
        for at in (end + UNHEARD_AFTER, now):
            yield _sample(camera, "unwatched", at, f"{camera}@{at.isoformat()}/unheard", holds=True)


def undelivered_sample(receiver: str, at: datetime, id: str) -> Sample:
    """Return that a receiver was not told of something; `id` is that of the delivery."""
    return _sample(f"receiver/{receiver}", UNDELIVERED, at, id or at.isoformat(), holds=True)


def _sample(camera: str, name: str, at: datetime, id: str, *, holds: bool) -> Sample:
    score = 1.0 if holds else 0.0
    return Sample(id=f"{id}/{name}", camera=camera, question=PREFIX + name, at=at, score=score)
