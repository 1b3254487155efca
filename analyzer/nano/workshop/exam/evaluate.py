"""Measure a checkpoint on what it was never trained on, through the same path as live video.

`python -m analyzer.nano.workshop.exam.evaluate` prints a table with a row per event, then one line
of figures: over rendered clips, clips of real footage (`--real VIDEO`), or streams (`--stream`).
Balanced accuracy is at margin 0; `best` is at the best threshold for these clips, for information.
Two baselines: `motion`, the mean difference of neighbouring stills, and `still`, a regression on
the features of nano's tower in each still alone.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from analyzer.models.loading import load_model
from analyzer.models.runner import ModelRunner
from analyzer.models.stills.decoding import decode_stills
from analyzer.nano.workshop.exam import streams
from analyzer.nano.workshop.exam.baselines import PerStill, features, fit
from analyzer.nano.workshop.exam.clips import (
    CHOOSING_SEEDS,
    FITTING_SEEDS,
    FRESH_SEEDS,
    SECONDS,
    SEEDS_PER_RUN,
    WINDOW,
    ClipAnswers,
    ask_clip,
    examine_scene,
    fresh_scenes,
    prefill_clip,
    stills_of,
    truths_of,
)
from analyzer.nano.workshop.exam.figures import ClipFigures, QuestionRow, figures_of, real_rows
from analyzer.nano.workshop.exam.streams import StreamRow
from analyzer.nano.workshop.renderer.events import EventKind
from analyzer.nano.workshop.renderer.sensor import Light

Item = TypeVar("Item")
Summary = dict[str, float | None]


def evaluate(
    runner: ModelRunner,
    clips: int,
    *,
    first: int = FRESH_SEEDS,
    light: Light | None = None,
    per_still: PerStill | None = None,
) -> ClipFigures:
    """Return the figures over rendered clips, with seeds from `first` on."""
    scenes = islice(fresh_scenes(first, light), clips)
    judged = [examine_scene(runner, scene) for scene in _with_progress(scenes, "clips", clips)]
    return figures_of(judged, per_still)


def evaluate_real(
    runner: ModelRunner, video: Path, clips: int, seed: int, per_still: PerStill | None
) -> tuple[QuestionRow, ...]:
    """Return the figures over clips of real footage, for the events that it has."""
    from analyzer.nano.workshop.footage.real import real_clips  # noqa: PLC0415  for measuring alone

    judged = list[ClipAnswers]()
    for clip in _with_progress(real_clips(video, clips, seed), "real clips", clips):
        truths = clip.kind is not None, *(clip.kind is kind for kind in EventKind)
        judged.append(ask_clip(runner, prefill_clip(runner, clip.jpegs), truths, phrasings=1))
    return tuple(row for row in real_rows(judged, per_still) if row.positives)


def fit_baseline(runner: ModelRunner, clips: int) -> PerStill | None:
    """Fit the baseline that sees each still alone; None for no clips."""
    seen, truths = list[torch.Tensor](), list[tuple[bool, ...]]()
    config = runner.model.config
    for scene in _with_progress(
        islice(fresh_scenes(FITTING_SEEDS), clips), "fitting the baseline", clips
    ):
        jpegs = stills_of(scene, SECONDS - WINDOW)
        seen.append(features(runner, decode_stills(jpegs, config.height, config.width)[0]))
        truths.append(truths_of(scene))
    return fit(torch.stack(seen), torch.tensor(truths)) if clips else None


def _with_progress(items: Iterable[Item], what: str, total: int) -> Iterable[Item]:
    return track(items, what, total=total, console=Console(stderr=True))


def _evaluate_clips(options: argparse.Namespace) -> Summary:
    speaker = load_model(options.model, "cpu")
    per_still = fit_baseline(speaker, options.fit)
    first = _first_seed(options)
    figures = evaluate(
        speaker, options.clips, first=first, light=options.light, per_still=per_still
    )
    if options.json:
        seen = {"seen_phrasing_auc": figures.seen_phrasing_auc}
        _print_json(options, {**asdict(figures), **seen, **figures.summary})
        return figures.summary
    _print_table(clip_table(figures.rows))
    _print_table(light_table(figures))
    print(
        f"phrasings trained on {_format_figure(figures.seen_phrasing_auc)}, never trained on"
        f" {_format_figure(figures.summary['unseen_phrasing_auc'])}; a still takes"
        f" {figures.ms_decoding:.2f} ms to decode, {figures.ms_per_still:.2f} ms to see and read"
    )
    return figures.summary


def _evaluate_real(options: argparse.Namespace) -> Summary:
    speaker = load_model(options.model, "cpu")
    per_still = fit_baseline(speaker, options.fit)
    rows = evaluate_real(speaker, options.real, options.clips, options.seed, per_still)
    summary = {"real_auc" if row is rows[0] else row.name: row.auc for row in rows}
    if options.json:
        _print_json(options, {"rows": [asdict(row) for row in rows], **summary})
    else:
        _print_table(real_table(rows))
    return summary


def _evaluate_streams(options: argparse.Namespace) -> Summary:
    first, options_kept = (
        _first_seed(options) + SEEDS_PER_RUN // 2,
        {"model": options.model, "light": options.light},
    )
    plans = [(first + n, n % 2 == 1) for n in range(2 * options.hours)]
    results = [
        streams.examine_stream(
            seed, streams.HOUR, is_busy=is_busy, settings=options.settings, **options_kept
        )
        for seed, is_busy in _with_progress(plans, "hours", len(plans))
    ]
    rows = streams.rows_of(results)
    summary = {name: getattr(rows[0], name) for name in ("recall", "delay_s", "false_per_hour")}
    if options.json:
        figures = {"streams": [asdict(s) for s in results], "rows": [asdict(row) for row in rows]}
        _print_json(options, {**figures, **summary})
    else:
        _print_table(stream_table(rows))
    return summary


def _first_seed(options: argparse.Namespace) -> int:
    return (CHOOSING_SEEDS if options.choosing else FRESH_SEEDS) + SEEDS_PER_RUN * int(options.seed)


def clip_table(rows: Iterable[QuestionRow]) -> Table:
    """Return the figures over rendered clips, for a person."""
    table = Table("event", "there", "AUC", "balanced", "best", "seen", "unseen", "motion", "still")
    for name in ("spans", "IoU", "in words", "absent", "never"):
        table.add_column(name)
    for row in rows:
        asked = (row.auc, row.balanced, row.best, row.seen, row.unseen, row.motion, row.still)
        ious = _format_figure(row.when_iou), _format_figure(row.when_in_words)
        spans = str(row.spans), *ious, str(row.absents), _format_figure(row.never)
        there = f"{row.positives} of {row.clips}"
        table.add_row(
            row.name,
            there,
            *map(_format_figure, asked),
            *(spans if row.spans + row.absents else ()),
        )
    return table


def real_table(rows: Iterable[QuestionRow]) -> Table:
    """Return the figures over real footage, for a person."""
    table = Table("event", "there", "AUC", "balanced", "best", "motion", "still")
    for row in rows:
        asked = row.auc, row.balanced, row.best, row.motion, row.still
        table.add_row(row.name, f"{row.positives} of {row.clips}", *map(_format_figure, asked))
    return table


def light_table(figures: ClipFigures) -> Table:
    """Return how "is anything unusual?" fares in each light, for a person."""
    table = Table("light", "there", "AUC of anything")
    for row in figures.lights:
        table.add_row(row.light, f"{row.positives} of {row.clips}", _format_figure(row.any_auc))
    return table


def stream_table(rows: Iterable[StreamRow]) -> Table:
    """Return the figures over streams, for a person."""
    table = Table("event", "expected", "recall", "delay", "false an eventful hour", "a busy hour")
    for row in rows:
        figures = row.recall, row.delay_s, row.false_per_eventful_hour, row.false_per_hour
        table.add_row(row.name, str(row.expected), *map(_format_figure, figures))
    return table


def _format_figure(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}"


def _print_table(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _print_json(options: argparse.Namespace, fields: dict[str, object]) -> None:
    asked = {
        name: getattr(options, name) for name in ("model", "seed", "clips", "light", "choosing")
    }
    print(json.dumps(asked | fields))


def last_line(summary: Summary) -> str:
    """Return figures as `name=figure`, with four digits; a missing one is `nan`."""
    pairs = (f"{k}={float('nan') if v is None else v:.4f}" for k, v in summary.items())
    return " ".join(pairs)


def main() -> None:
    """Run the measurements of the command line."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    how = (
        _evaluate_real if options.real else _evaluate_streams if options.stream else _evaluate_clips
    )
    summary = how(options)
    if not options.json:
        print(last_line(summary))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="nano", help="nano or a folder")
    parser.add_argument("--seed", type=int, default=0, help="each has clips of its own")
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--light", type=Light, choices=list(Light), help="else all of them")
    parser.add_argument("--fit", type=int, default=200, help="clips for the baseline; 0: without")
    parser.add_argument("--real", type=Path, metavar="VIDEO", help="clips of real footage instead")
    parser.add_argument("--stream", action="store_true", help="hours through the product instead")
    parser.add_argument("--hours", type=int, default=2, help="eventful ones, and as many busy ones")
    parser.add_argument("--settings", type=Path, default=streams.SETTINGS, help="of the streams")
    parser.add_argument(
        "--choosing", action="store_true", help="clips to choose by, never those that are reported"
    )
    parser.add_argument("--json", action="store_true", help="everything as one JSON object")
    return parser


if __name__ == "__main__":
    main()
