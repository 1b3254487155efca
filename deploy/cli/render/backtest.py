"""The result of `longwatch backtest`, as JSON, tables and lines."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table

from deploy.cli.common import format_instant
from ingest.files.coverage import FileCoverage, SkipReason
from storage.records.wire import incident_fields

if TYPE_CHECKING:
    from deploy.backtest.video import BacktestResult

_SKIP_TEXTS = {
    SkipReason.PAUSE: "a pause in the recording",
    SkipReason.DAMAGED: "damaged video",
    SkipReason.TOO_SHORT: "too short, fewer than 4 pictures",
    SkipReason.NO_PICTURE: "no picture at the beginning or the end, as in a file that is cut off",
}


def backtest_fields(result: "BacktestResult") -> dict[str, Any]:
    """Return the incidents and the coverage of a backtest as JSON; times in seconds."""
    rate = result.framerate
    return {
        "camera": result.camera,
        "windows": result.windows,
        "findings": result.findings,
        "unanswered": result.unanswered,
        "seconds": round(result.coverage.seconds, 3),
        "looked_at": round(result.coverage.watched_seconds, 3),
        "skipped": [
            {
                "start": each.start.isoformat(),
                "end": each.end.isoformat(),
                "seconds": round(each.seconds, 3),
                "reason": each.reason,
            }
            for each in result.coverage.skipped
        ],
        "joins": result.coverage.joins,
        "notes": result.notes,
        "framerate": rate and {"fps": rate.fps, "is_guess": rate.is_guess},
        "speed": result.speed,
        "incidents": [
            incident_fields(fired.incident) | {"peak_score": fired.peak_score}
            for fired in result.fired_incidents
        ],
    }


def backtest_table(result: "BacktestResult") -> Table:
    """Return the incidents as a table."""
    table = Table("rule", "camera", "opened", "closed", "peak score")
    for fired in result.fired_incidents:
        incident = fired.incident
        times = (format_instant(incident.opened_at), format_instant(incident.closed_at))
        table.add_row(incident.rule, incident.camera, *times, f"{fired.peak_score:.2f}")
    return table


def coverage_table(coverage: "FileCoverage") -> Table:
    """Return the watched and the skipped seconds of a recording, with the reasons."""
    table = Table("video", "seconds", "times")
    table.add_row("looked at", f"{coverage.watched_seconds:.1f}", "")
    for reason, words in _SKIP_TEXTS.items():
        parts = [each.seconds for each in coverage.skipped if each.reason == reason]
        if parts:
            table.add_row(f"skipped: {words}", f"{sum(parts):.1f}", str(len(parts)))
    if coverage.joins:
        words = "unknown: the timestamps jump back, or ahead by more than 12 h"
        table.add_row(words, "?", str(coverage.joins))
    return table


def backtest_notes(result: "BacktestResult") -> Iterator[str]:
    """Yield further notes on a backtest, one line each."""
    if result.framerate is not None:
        message = f"the video has no timestamps: read at {result.framerate.fps:g} frames a second"
        hint = ", a guess: set the rate with --framerate"
        yield message + (hint if result.framerate.is_guess else "")
    yield from (f"of the file: {note}" for note in result.notes)
    if result.unanswered:
        yield f"{result.unanswered} questions got no answer: the model's score was not a number"
    yield (
        f"{result.windows} windows, {result.findings} findings; looked at"
        f" {result.coverage.watched_seconds:.0f} of {result.coverage.seconds:.0f} s of video"
        f" in {result.elapsed:.1f} s, {result.speed:.1f} x real time"
    )


def no_coverage_message(video: str, coverage: "FileCoverage") -> str:
    """Return one line about a video that could not be watched at all, and what to do."""
    reasons = {each.reason for each in coverage.skipped}
    why = "; ".join(words for reason, words in _SKIP_TEXTS.items() if reason in reasons)
    return (
        f"{video}: nothing of its {coverage.seconds:.1f} s was looked at ({why or 'no picture'}):"
        " choose a recording with four pictures or more, one after the other"
    )
