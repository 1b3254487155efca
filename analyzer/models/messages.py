"""The inputs and results of a model runner.

Legend: G groups, V visual tokens of a group, E decoder width, N layers, Q questions, H heads,
D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from analyzer.kv.arena.arena import AnyChunk
from analyzer.kv.encoded import Background
from analyzer.models.stills.overlay import ZoneOverlay


@dataclass(frozen=True, slots=True)
class WindowRun:
    """Consecutive windows of one camera, as JPEGs, with its background and its zones' outlines."""

    windows: Sequence[Sequence[bytes]]
    background: Background | None = None
    overlay: ZoneOverlay | None = None


@dataclass(frozen=True, slots=True, eq=False)
class WindowToRemember:
    """A window to prefill: its visual tokens, the seconds of its groups, and its context.

    Without `context` it is prefilled after the window before it in the same pass.
    """

    tokens_GVE: Tensor
    seconds: Sequence[float]
    context: Sequence[AnyChunk] | None


@dataclass(frozen=True, slots=True, eq=False)
class ScoreInput:
    """Yes/no questions about one context."""

    questions: Sequence[str]
    context: Sequence[AnyChunk]


@dataclass(frozen=True, slots=True, eq=False)
class YesNoScores:
    """Margins logit(yes) - logit(no) of questions, and the queries of their last tokens."""

    margins: list[float]
    queries_NQHD: Tensor
