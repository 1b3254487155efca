"""Figures from the answers on clips: a row per question, a row per light, and the summary."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from analyzer.nano.workshop.exam.baselines import PerStill
from analyzer.nano.workshop.exam.clips import SEEN_PHRASINGS, ClipAnswers
from analyzer.nano.workshop.exam.measures import auc, balanced_accuracy, best_balanced_accuracy
from analyzer.nano.workshop.renderer.events import EventKind
from analyzer.nano.workshop.renderer.sensor import Light

NAMES = ("anything", *EventKind)
Figure = float | None
"""None without data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionRow:
    """The accuracy of a question; `balanced` is at margin 0, `best` at the best threshold.

    `seen` and `unseen` are the mean AUC of phrasings that were and were not trained on.
    """

    name: str
    clips: int
    positives: int
    auc: Figure
    balanced: Figure
    best: Figure
    seen: Figure
    unseen: Figure
    motion: Figure
    still: Figure
    spans: int
    when_iou: Figure
    when_in_words: Figure
    absents: int
    never: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class LightRow:
    """How well "is anything unusual?" is answered in one light."""

    light: Light
    clips: int
    positives: int
    any_auc: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFigures:
    """All figures over clips."""

    rows: tuple[QuestionRow, ...]
    lights: tuple[LightRow, ...]
    ms_per_still: float
    ms_decoding: float

    @property
    def summary(self) -> dict[str, Figure]:
        """Return the figures of the last line."""
        events = self.rows[1:]
        return {
            "any_auc": self.rows[0].auc,
            "min_event_auc": _minimum(row.auc for row in events),
            "min_event_balanced": _minimum(row.balanced for row in events),
            "when_iou": self.when_iou,
            "unseen_phrasing_auc": _mean(row.unseen for row in self.rows),
            "ms_per_still": self.ms_per_still,
        }

    @property
    def when_iou(self) -> Figure:
        """Return the mean over all events that were asked for, not over kinds."""
        asked = [row for row in self.rows if row.when_iou is not None]
        spans = sum(row.spans for row in asked)
        return sum((row.when_iou or 0) * row.spans for row in asked) / spans if spans else None

    @property
    def seen_phrasing_auc(self) -> Figure:
        """Return the reference value of `unseen_phrasing_auc`."""
        return _mean(row.seen for row in self.rows)


def figures_of(clips: Sequence[ClipAnswers], per_still: PerStill | None) -> ClipFigures:
    """Return the figures of rendered clips."""
    lights = [(light, [each for each in clips if each.light is light]) for light in Light]
    return ClipFigures(
        rows=tuple(row_of(q, clips, per_still) for q in range(len(NAMES))),
        lights=tuple(_light_row(light, own) for light, own in lights if own),
        ms_per_still=median(each.prefill_ms for each in clips),
        ms_decoding=median(each.decoding_ms for each in clips),
    )


def row_of(question: int, clips: Sequence[ClipAnswers], per_still: PerStill | None) -> QuestionRow:
    """Return the figures of one question, 0 being "is anything unusual?"."""
    truths = [each.truths[question] for each in clips]
    phrasings = [
        _measured(auc, margins, truths)
        for margins in zip(*(each.margins[question] for each in clips), strict=True)
    ]
    canonical = [each.margins[question][0] for each in clips]
    alone = [per_still.margins(each.features_F)[question] for each in clips] if per_still else []
    told = [told for each in clips for told in each.spans if told.kind == NAMES[question]]
    happened = [each for each in told if each.happened]
    absents = [told.overlap for told in told if not told.happened]
    return QuestionRow(
        name=NAMES[question],
        clips=len(clips),
        positives=sum(truths),
        auc=phrasings[0],
        balanced=_measured(balanced_accuracy, canonical, truths),
        best=_measured(best_balanced_accuracy, canonical, truths),
        seen=_mean(phrasings[:SEEN_PHRASINGS]),
        unseen=_mean(phrasings[SEEN_PHRASINGS:]),
        motion=_measured(auc, [each.motion for each in clips], truths),
        still=_measured(auc, alone, truths) if per_still else None,
        spans=len(happened),
        when_iou=_mean(each.overlap for each in happened),
        when_in_words=_mean(each.overlap_in_words for each in happened),
        absents=len(absents),
        never=_mean(absents),
    )


def real_rows(clips: Sequence[ClipAnswers], per_still: PerStill | None) -> tuple[QuestionRow, ...]:
    """Return the figures of real clips: each kind's own against the normal ones."""
    rows = [row_of(0, clips, per_still)]
    for question in range(1, len(NAMES)):
        own = [each for each in clips if each.truths[question] or not each.truths[0]]
        rows.append(row_of(question, own, per_still))
    return tuple(rows)


def _light_row(light: Light, clips: Sequence[ClipAnswers]) -> LightRow:
    row = row_of(0, clips, None)
    return LightRow(light=light, clips=row.clips, positives=row.positives, any_auc=row.auc)


def _measured(
    measure: Callable[[Sequence[float], Sequence[bool]], float],
    margins: Sequence[float],
    truths: Sequence[bool],
) -> Figure:
    return measure(margins, truths) if any(truths) and not all(truths) else None


def _mean(figures: Iterable[Figure]) -> Figure:
    known = [figure for figure in figures if figure is not None]
    return fmean(known) if known else None


def _minimum(figures: Iterable[Figure]) -> Figure:
    return min((figure for figure in figures if figure is not None), default=None)
