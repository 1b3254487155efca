"""What `longwatch backtest` prints: JSON for machines, tables and lines for people."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table

from deploy.console import time_text
from ingest.file_coverage import FileCoverage, SkipReason
from storage.wire import incident_fields

if TYPE_CHECKING:
    from deploy.backtest import Backtest

_SKIPPED = {
    SkipReason.PAUSE: "a pause in the recording",
    SkipReason.DAMAGED: "damaged video",
    SkipReason.TOO_SHORT: "too short, fewer than 4 pictures",
    SkipReason.NO_PICTURE: "no picture at the beginning or the end, as in a file that is cut off",
}


def backtest_fields(test: "Backtest") -> dict[str, Any]:
    """Return what would have fired, and what was looked at; times in seconds."""
    rate = test.framerate
    return {
        "camera": test.camera,
        "windows": test.windows,
        "findings": test.findings,
        "unanswered": test.unanswered,
        "seconds": round(test.coverage.seconds, 3),
        "looked_at": round(test.coverage.looked_at, 3),
        "skipped": [
            {
                "start": each.start.isoformat(),
                "end": each.end.isoformat(),
                "seconds": round(each.seconds, 3),
                "reason": each.reason,
            }
            for each in test.coverage.skipped
        ],
        "joins": test.coverage.joins,
        "notes": test.notes,
        "framerate": rate and {"fps": rate.fps, "is_guess": rate.is_guess},
        "speed": test.speed,
        "incidents": [
            incident_fields(fired.incident) | {"peak_score": fired.peak_score}
            for fired in test.fired
        ],
    }


def backtest_table(test: "Backtest") -> Table:
    """Return what would have fired, for a person."""
    table = Table("rule", "camera", "opened", "closed", "peak score")
    for fired in test.fired:
        incident = fired.incident
        times = (time_text(incident.opened_at), time_text(incident.closed_at))
        table.add_row(incident.rule, incident.camera, *times, f"{fired.peak_score:.2f}")
    return table


def looked_at_table(coverage: "FileCoverage") -> Table:
    """Return what of a recording was looked at, and what not and why."""
    table = Table("video", "seconds", "times")
    table.add_row("looked at", f"{coverage.looked_at:.1f}", "")
    for reason, words in _SKIPPED.items():
        parts = [each.seconds for each in coverage.skipped if each.reason == reason]
        if parts:
            table.add_row(f"skipped: {words}", f"{sum(parts):.1f}", str(len(parts)))
    if coverage.joins:
        words = "unknown: the timestamps jump back, or ahead by more than 12 h"
        table.add_row(words, "?", str(coverage.joins))
    return table


def backtest_notes(test: "Backtest") -> Iterator[str]:
    """Yield, one line each, what else a person should know of a backtest."""
    if test.framerate is not None:
        told = f"the video has no timestamps: read at {test.framerate.fps:g} frames a second"
        hint = ", which is a guess: name its rate with --framerate"
        yield told + (hint if test.framerate.is_guess else "")
    yield from (f"of the file: {note}" for note in test.notes)
    if test.unanswered:
        yield f"{test.unanswered} questions got no answer: the model's answer was no number"
    yield (
        f"{test.windows} windows, {test.findings} findings; looked at"
        f" {test.coverage.looked_at:.0f} of {test.coverage.seconds:.0f} s of video"
        f" in {test.elapsed:.1f} s, {test.speed:.1f} x real time"
    )


def nothing_looked_at(video: str, coverage: "FileCoverage") -> str:
    """Return, in one line, that and why a video was not looked at, and what to do."""
    reasons = {each.reason for each in coverage.skipped}
    why = "; ".join(words for reason, words in _SKIPPED.items() if reason in reasons)
    return (
        f"{video}: nothing of its {coverage.seconds:.1f} s was looked at ({why or 'no picture'}):"
        " choose a recording with four pictures or more, one after the other"
    )
