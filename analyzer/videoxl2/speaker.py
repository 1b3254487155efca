"""A model together with its words: stills and questions in, chunks, margins and text out.

Legend: G groups, V visual tokens of a group, E decoder width, T tokens, N layers, Q questions,
H heads, D head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from math import ceil, isfinite
from typing import TypeAlias, TypeVar

import structlog
import torch
from tokenizers import Tokenizer
from torch import Tensor

from analyzer.errors import ModelUnusable
from analyzer.videoxl2 import prompt
from analyzer.videoxl2.arena import ArenaChunk, Form
from analyzer.videoxl2.blank import blank_chunk
from analyzer.videoxl2.config import STILLS_PER_GROUP
from analyzer.videoxl2.decoding import Decoder, nvjpeg_on
from analyzer.videoxl2.kv import KVCache, KVChunk
from analyzer.videoxl2.model import Asked, Piece, VideoXL2
from analyzer.videoxl2.overlay import Overlay
from analyzer.videoxl2.precision import is_finite
from analyzer.videoxl2.selfcheck import difference_from_plain
from analyzer.videoxl2.slots import ArenaPlan
from analyzer.videoxl2.streams import DoesNotFit, NewChunk, Streams
from analyzer.videoxl2.vision import Background, blank_pixels, fill_pixels
from storage.errors import Unreadable

WindowToRead: TypeAlias = tuple[Tensor, Sequence[float], Sequence[Form] | None]
"""Visual tokens (G, V, E) of a window, the seconds of its groups, and what it is read behind: None
is what the window before it in the pass is read behind, and that window."""
Made = TypeVar("Made")
NO_NUMBER = "the model made of it what is no number"

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive windows of one camera, each its JPEGs, the background before, its outlines."""

    windows: Sequence[Sequence[bytes]]
    background: Background | None = None
    overlay: Overlay | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What the stills of a window show: visual tokens of each group, kept on the host."""

    tokens_GVE: Tensor
    background: Background | None
    corrupt: int


@dataclass(frozen=True, slots=True)
class Said:
    """Margins logit(yes) - logit(no) of questions, and the queries with which they looked."""

    margins: list[float]
    queries_NQHD: Tensor


class Speaker:
    """A model with its tokenizer; `name` says exactly which weights these are.

    `corrected` gives pooled tokens the attention of those that they stand for.
    """

    def __init__(
        self,
        model: VideoXL2,
        tokenizer: Tokenizer,
        name: str,
        corrected: bool = False,
        reload: Callable[[torch.dtype], None] | None = None,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.corrected = corrected
        self.streams: Streams | None = None
        self._reload = reload
        size, device = (model.config.height, model.config.width), model.device
        self.decoder = Decoder(*size, device, nvjpeg_on(device))
        self.yes, self.no, self.end = (
            self.ids(word)[0] for word in (prompt.YES, prompt.NO, prompt.END)
        )
        self.prefix = self._read_prefix()

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    @torch.inference_mode()
    def use_arena(self, plan: ArenaPlan) -> None:
        """Read and ask in an arena from now on, unless it differs from the plain way here.

        Raises ModelUnusable where the device has no room for it.
        """
        if self.streams is None:
            difference = self._difference()
            if difference:
                logger.error(
                    "no arena here: each pass copies the memory that it reads", why=difference
                )
                return
        self.streams = None  # two do not fit
        previous, language = self.model.config.previous, self.model.language
        try:
            self.streams = Streams(language, self.prefix, plan, previous, corrected=self.corrected)
        except torch.OutOfMemoryError as error:
            told = f"{self.model.device} has no room for the memories of {plan.slots} streams"
            raise ModelUnusable(f"{told}: see `longwatch doctor`") from error

    def _difference(self) -> str:
        """Say how an arena differs from the plain way, in bfloat16 where float16 overflows."""
        try:
            return difference_from_plain(self.model, self.prefix, corrected=self.corrected)
        except FloatingPointError as error:
            return self._difference() if self._take_bfloat16() else str(error)

    @property
    def reads_neighbours(self) -> bool:
        """Return whether consecutive windows of a stream can be read in one pass."""
        return self.streams is not None

    def prepare(self, jpegs: Sequence[bytes]) -> None:
        """Begin to decode the stills of a window that `see` will soon be given."""
        self.decoder.prepare(jpegs)

    @torch.inference_mode()
    def see(self, runs: Sequence[Run]) -> list[list[Seen]]:
        """Look at the windows of several cameras in one pass; return those of each run.

        A corrupt still is replaced by the one before it. Raises Unreadable where no still of a
        window is whole.
        """
        decoded = self.decoder.decode([jpegs for run in runs for jpegs in run.windows])
        groups = [ceil(len(one.levels_NCHW) / STILLS_PER_GROUP) for one in decoded]
        pixels_NCHW = blank_pixels(self.model.config, sum(groups), self.model.device)
        rooms = pixels_NCHW.split([STILLS_PER_GROUP * many for many in groups])
        filling, grounds = zip(rooms, decoded, strict=True), list[Background | None]()
        for run in runs:
            ground = run.background
            for room_NCHW, one in islice(filling, len(run.windows)):
                if run.overlay is not None:
                    run.overlay.draw(one.levels_NCHW)
                ground = fill_pixels(room_NCHW, one.levels_NCHW, ground)
                grounds.append(ground)
        tokens_GVE = self._finite(lambda: self.model.see(pixels_NCHW.to(self.dtype)), is_finite)
        tokens = tokens_GVE.split(groups)
        seen = (
            Seen(own_GVE.clone(), ground, one.corrupt)
            for own_GVE, ground, one in zip(tokens, grounds, decoded, strict=True)
        )
        return [list(islice(seen, len(run.windows))) for run in runs]

    @torch.inference_mode()
    def read(self, pieces: Sequence[WindowToRead]) -> list[Form]:
        """Prefill windows in one pass: visual tokens, the seconds of its groups, what lies before.

        Raises Unreadable where the model makes of them what is no number.
        """
        streams = self.streams
        if streams is None:
            return self._finite(lambda: self._read_behind(pieces), lambda made: is_finite(*made))
        new = self._new_chunks(streams, pieces)
        try:
            chunks, _ = self._finite(lambda: streams.prefill(new), lambda made: bool(made[1]))
        except DoesNotFit as error:
            raise Unreadable(str(error)) from error
        return [*chunks]

    def _read_behind(self, pieces: Sequence[WindowToRead]) -> list[Form]:
        """Read behind caches that are laid for this pass."""
        asked = []
        for tokens_GVE, seconds, behind in pieces:
            x_TE, anchors_T = self.interleave(tokens_GVE.to(self.prefix.keys_NKTD), seconds)
            if behind is None:
                raise ValueError("neighbours are read one by one without an arena")
            asked.append(Piece(x_TE, anchors_T, self._cache(behind)))
        return [*self.model.prefill_all(asked)]

    def _new_chunks(self, streams: Streams, pieces: Sequence[WindowToRead]) -> list[NewChunk]:
        """Return what to read into the slot of what is before it, a new one where nothing is."""
        new, slot = list[NewChunk](), None
        for tokens_GVE, seconds, behind in pieces:
            stamps = [self.ids(prompt.timestamp(second)) for second in seconds]
            if behind is not None:
                last = behind[-1] if behind else None
                slot = last.slot if isinstance(last, ArenaChunk) else streams.slot()
            new.append(
                NewChunk(
                    tokens_VE=tokens_GVE.flatten(0, 1),
                    anchors_T=_anchors(stamps, tokens_GVE.shape[1]),
                    ids=[token for stamp in stamps for token in stamp],
                    behind=behind,
                    slot=slot or streams.slot(),
                )
            )
        return new

    def watch(
        self,
        jpegs: Sequence[bytes],
        seconds: Sequence[float],
        background: Background | None,
        behind: Sequence[Form],
    ) -> tuple[Form, Background | None]:
        """See and prefill one window; `seconds` are the times of its stills."""
        ((seen,),) = self.see([Run([jpegs], background)])
        (chunk,) = self.read([(seen.tokens_GVE, seconds[::STILLS_PER_GROUP], behind)])
        return chunk, seen.background

    def interleave(self, tokens_GVE: Tensor, seconds: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Put each group behind its timestamp: (T, E), and which of them are text."""
        stamps, parts = list[list[int]](), list[Tensor]()
        for tokens_VE, second in zip(tokens_GVE, seconds, strict=True):
            stamps.append(self.ids(prompt.timestamp(second)))
            parts += [self._embedded(stamps[-1]), tokens_VE]
        return torch.cat(parts), _anchors(stamps, tokens_GVE.shape[1])

    @torch.inference_mode()
    def ask(self, asks: Sequence[tuple[Sequence[str], Sequence[Form]]]) -> list[Said]:
        """Ask yes/no questions behind what is held, several sets of them in one pass."""
        packed = [
            ([self.ids(prompt.question(ask)) for ask in texts], behind) for texts, behind in asks
        ]

        def said() -> list[Said]:
            return [
                Said(
                    self.model.language.margins(asked.hidden_QE, self.yes, self.no).tolist(),
                    asked.queries_NQHD,
                )
                for asked in self._asked(packed)
            ]

        made = said()
        are_numbers = all(isfinite(margin) for one in made for margin in one.margins)
        return made if are_numbers or not self._take_bfloat16() else said()

    def _asked(
        self, asks: Sequence[tuple[Sequence[Sequence[int]], Sequence[Form]]]
    ) -> Sequence[Asked]:
        if self.streams is not None:
            try:
                return self.streams.ask(asks)
            except DoesNotFit:
                if len(asks) > 1:
                    half = len(asks) // 2
                    return [*self._asked(asks[:half]), *self._asked(asks[half:])]
        return self.model.ask_all([(texts, self._cache(behind)) for texts, behind in asks])

    def margins(self, asks: Sequence[str], behind: Sequence[Form]) -> list[float]:
        """Return logit(yes) - logit(no) for each question, read behind what is held."""
        return self.ask([(asks, behind)])[0].margins

    @torch.inference_mode()
    def say(self, ask: str, behind: Sequence[Form], limit: int = 128) -> str:
        """Return the greedy answer to a question, of at most `limit` tokens."""
        ids = self.ids(prompt.question(prompt.in_seconds(ask)))
        cache = self._cache(behind, room=len(ids) + limit)
        answer = self.model.answer(ids, cache, limit, self.end)
        text: str = self.tokenizer.decode(answer)
        return text.strip()

    def blank(self, stills: int, latest: timedelta) -> tuple[KVChunk, int]:
        """Return the largest chunk of so many stills, without content, and its tokens' bytes."""
        stamp = len(self.ids(prompt.last_timestamp(latest)))
        return blank_chunk(self.model.config, self.prefix.keys_NKTD.dtype, stills, stamp)

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of the model."""
        return self.prefix.keys_NKTD.dtype

    def _finite(self, work: Callable[[], Made], is_number: Callable[[Made], bool]) -> Made:
        """Return what work makes; in bfloat16 from now on where float16 makes what is no number.

        Raises Unreadable where it still is none.
        """
        made = work()
        if not is_number(made) and self._take_bfloat16():
            made = work()
        if not is_number(made):
            raise Unreadable(NO_NUMBER)
        return made

    def _take_bfloat16(self) -> bool:
        """Read the weights again as bfloat16; return whether that was done."""
        if self._reload is None or self.dtype != torch.float16:
            return False
        logger.error("float16 overflowed: the model goes on in bfloat16", model=self.name)
        self._reload(torch.bfloat16)
        self.prefix = self._read_prefix()
        if self.streams is not None:
            self.streams.convert(self.prefix)
        return True

    @torch.inference_mode()
    def _read_prefix(self) -> KVChunk:
        x_TE = self._embedded(self.ids(prompt.BEFORE))
        return self.model.prefill(x_TE, _text(len(x_TE)), self.model.cache())

    def _cache(self, behind: Sequence[Form], room: int = 0) -> KVCache:
        chunks = [form.restored() if isinstance(form, ArenaChunk) else form for form in behind]
        return self.model.cache((self.prefix, *chunks), self.corrected, room)

    def _embedded(self, ids: Sequence[int]) -> Tensor:
        return self.model.language.embed(torch.tensor(ids, device=self.model.device))


def _text(tokens: int) -> Tensor:
    return torch.ones(tokens, dtype=torch.bool)


def _anchors(stamps: Sequence[Sequence[int]], visual: int) -> Tensor:
    """Return which tokens are text, each group of visual ones behind its timestamp."""
    return torch.cat([part for ids in stamps for part in (_text(len(ids)), ~_text(visual))])
