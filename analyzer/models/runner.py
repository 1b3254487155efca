"""A model with its tokenizer: encode stills, prefill windows, score questions, generate text.

Legend: G groups, V visual tokens of a group, E decoder width, T tokens, N layers, Q questions,
H heads, D head width.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from math import ceil, isfinite
from typing import TypeVar

import structlog
import torch
from tokenizers import Tokenizer
from torch import Tensor

from analyzer.errors import ModelUnusable
from analyzer.kv.arena.arena import AnyChunk, ArenaChunk
from analyzer.kv.arena.decoder import ArenaDecoder, DoesNotFit, NewChunk
from analyzer.kv.arena.slots import ArenaPlan
from analyzer.kv.cache import KVCache, KVChunk
from analyzer.kv.encoded import Background, EncodedWindow
from analyzer.kv.forward import PrefillInput, TextStates
from analyzer.models.messages import ScoreInput, WindowRun, WindowToRemember, YesNoScores
from analyzer.models.selfcheck import arena_difference
from analyzer.models.stills.decoding import StillDecoder, nvjpeg_decoder
from analyzer.models.tokenizer import token_ids
from analyzer.models.video_model import VideoModel
from storage.errors import Unreadable
from storage.records.records import Window

TokenSet = tuple[Sequence[Sequence[int]], Sequence[AnyChunk]]
Made = TypeVar("Made")
NOT_FINITE = "the model computes NaN or infinity from it"

logger = structlog.get_logger()


class ModelRunner:
    """A model with its tokenizer; `name` identifies the weights.

    With `proportional_attention`, a pooled token weighs as many tokens as it averages.
    """

    def __init__(
        self,
        model: VideoModel,
        tokenizer: Tokenizer,
        name: str,
        proportional_attention: bool = False,
        reload: Callable[[torch.dtype], None] | None = None,
    ) -> None:
        self.model = model.eval()
        self.prompt, self._stills_per_group = model.prompt, model.config.stills_per_group
        self.tokenizer = tokenizer
        self.name = name
        self.proportional_attention = proportional_attention
        self.arena_decoder: ArenaDecoder | None = None
        self._reload = reload
        size, device = (model.config.height, model.config.width), model.device
        self.still_decoder = StillDecoder(*size, device, nvjpeg_decoder(device))
        self.yes_id, self.no_id, self.end_id = (
            self.token_ids(word)[0] for word in (self.prompt.YES, self.prompt.NO, self.prompt.END)
        )
        self.prefix = self._prefill_prefix()

    def token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        return token_ids(self.tokenizer, text)

    @torch.inference_mode()
    def use_arena(self, plan: ArenaPlan) -> None:
        """Use an arena from now on, unless its results differ from those of caches here.

        Raises ModelUnusable if the device has no room for it.
        """
        if self.arena_decoder is None:
            difference = self._arena_difference()
            if difference:
                logger.error(
                    "the arena is not used: each pass copies its context", reason=difference
                )
                return
        self.arena_decoder = None  # the device has no room for two
        previous, language = self.model.config.previous, self.model.language
        try:
            self.arena_decoder = ArenaDecoder(
                language,
                self.prefix,
                plan,
                previous,
                proportional_attention=self.proportional_attention,
            )
        except torch.OutOfMemoryError as error:
            reason = f"{self.model.device} has no room for the memories of {plan.slots} streams"
            raise ModelUnusable(f"{reason}: see `longwatch doctor`") from error

    def _arena_difference(self) -> str:
        """Return how an arena differs from caches; bfloat16 replaces an overflowing float16."""
        try:
            return arena_difference(
                self.model, self.prefix, proportional_attention=self.proportional_attention
            )
        except FloatingPointError as error:
            return self._arena_difference() if self._switch_to_bfloat16() else str(error)

    @property
    def can_prefill_neighbours(self) -> bool:
        """Return whether one pass can prefill consecutive windows of a stream."""
        return self.arena_decoder is not None

    def prepare(self, jpegs: Sequence[bytes]) -> None:
        """Start to decode the stills of a window that will soon be encoded."""
        self.still_decoder.prepare(jpegs)

    @torch.inference_mode()
    def encode(self, runs: Sequence[WindowRun]) -> list[list[EncodedWindow]]:
        """Encode the windows of several cameras in one pass; return those of each run.

        A corrupt still is replaced by the one before it. Raises Unreadable if a window has no
        valid still.
        """
        decoded = self.still_decoder.decode([jpegs for run in runs for jpegs in run.windows])
        groups = [ceil(len(stills.levels_NCHW) / self._stills_per_group) for stills in decoded]
        pixels_NCHW = self.model.empty_pixels(sum(groups))
        targets = pixels_NCHW.split([self._stills_per_group * many for many in groups])
        unfilled, backgrounds = zip(targets, decoded, strict=True), list[Background | None]()
        for run in runs:
            background = run.background
            for target_NCHW, stills in islice(unfilled, len(run.windows)):
                if run.overlay is not None:
                    run.overlay.draw(stills.levels_NCHW)
                background = self.model.fill_pixels(target_NCHW, stills.levels_NCHW, background)
                backgrounds.append(background)
        tokens_GVE = self._require_finite(
            lambda: self.model.encode(pixels_NCHW.to(self.dtype)), is_finite
        )
        tokens = tokens_GVE.split(groups)
        encoded = (
            EncodedWindow(own_GVE.clone(), background, stills.corrupt)
            for own_GVE, background, stills in zip(tokens, backgrounds, decoded, strict=True)
        )
        return [list(islice(encoded, len(run.windows))) for run in runs]

    @torch.inference_mode()
    def prefill(self, windows: Sequence[WindowToRemember]) -> list[AnyChunk]:
        """Prefill windows in one pass.

        Raises Unreadable if the model computes NaN or infinity in every precision it has.
        """
        decoder = self.arena_decoder
        if decoder is None:
            return self._require_finite(
                lambda: self._prefill_from_cache(windows), lambda made: is_finite(*made)
            )
        new = self._new_chunks(decoder, windows)
        try:
            chunks, _ = self._require_finite(
                lambda: decoder.prefill(new), lambda made: bool(made[1])
            )
        except DoesNotFit as error:
            raise Unreadable(str(error)) from error
        return [*chunks]

    def _prefill_from_cache(self, windows: Sequence[WindowToRemember]) -> list[AnyChunk]:
        """Prefill against caches, which are built for this pass."""
        inputs = []
        for each in windows:
            tokens_GVE = each.tokens_GVE.to(self.prefix.keys_NKTD)
            if each.context is None:
                raise ValueError("consecutive windows need an arena to be prefilled in one pass")
            cache = self._build_cache(each.context)
            inputs.append(PrefillInput(*self.interleave(tokens_GVE, each.seconds), cache))
        return [*self.model.prefill_all(inputs)]

    def _new_chunks(
        self, decoder: ArenaDecoder, windows: Sequence[WindowToRemember]
    ) -> list[NewChunk]:
        """Return the chunks of windows, each for the slot of its context or an empty one."""
        new, slot = list[NewChunk](), None
        for each in windows:
            timestamp_ids = [
                self.token_ids(self.prompt.timestamp(second)) for second in each.seconds
            ]
            if each.context is not None:
                last = each.context[-1] if each.context else None
                slot = last.slot if isinstance(last, ArenaChunk) else decoder.allocate_slot()
            new.append(
                NewChunk(
                    tokens_VE=each.tokens_GVE.flatten(0, 1),
                    anchors_T=_anchors(timestamp_ids, each.tokens_GVE.shape[1]),
                    ids=[token for stamp in timestamp_ids for token in stamp],
                    context=each.context,
                    slot=slot or decoder.allocate_slot(),
                )
            )
        return new

    def interleave(self, tokens_GVE: Tensor, seconds: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Return the tokens (T, E) of groups, each after its timestamp, and which are text."""
        timestamp_ids, parts = list[list[int]](), list[Tensor]()
        for tokens_VE, second in zip(tokens_GVE, seconds, strict=True):
            timestamp_ids.append(self.token_ids(self.prompt.timestamp(second)))
            parts += [self._embed(timestamp_ids[-1]), tokens_VE]
        return torch.cat(parts), _anchors(timestamp_ids, tokens_GVE.shape[1])

    @torch.inference_mode()
    def score(self, inputs: Sequence[ScoreInput]) -> list[YesNoScores]:
        """Score yes/no questions, several inputs in one pass.

        Margins that are not finite in any precision of the model are returned as they are.
        """
        token_sets = [
            (
                [self.token_ids(self.prompt.question_text(ask)) for ask in each.questions],
                each.context,
            )
            for each in inputs
        ]
        scores = self._score(token_sets)
        is_valid = all(isfinite(margin) for each in scores for margin in each.margins)
        return scores if is_valid or not self._switch_to_bfloat16() else self._score(token_sets)

    def _score(self, token_sets: Sequence[TokenSet]) -> list[YesNoScores]:
        margins = self.model.language.margins
        return [
            YesNoScores(
                margins(each.hidden_QE, self.yes_id, self.no_id).tolist(), each.queries_NQHD
            )
            for each in self._forward_texts(token_sets)
        ]

    def _forward_texts(self, token_sets: Sequence[TokenSet]) -> Sequence[TextStates]:
        if self.arena_decoder is not None:
            try:
                return self.arena_decoder.forward_texts(token_sets)
            except DoesNotFit:
                if len(token_sets) > 1:
                    half = len(token_sets) // 2
                    halves = token_sets[:half], token_sets[half:]
                    return [each for part in halves for each in self._forward_texts(part)]
        return self.model.forward_texts(
            [(texts, self._build_cache(context)) for texts, context in token_sets]
        )

    def margins(self, asks: Sequence[str], context: Sequence[AnyChunk]) -> list[float]:
        """Return logit(yes) - logit(no) of each question about a context."""
        return self.score([ScoreInput(asks, context)])[0].margins

    @torch.inference_mode()
    def generate(self, ask: str, context: Sequence[AnyChunk], limit: int = 128) -> str:
        """Return the greedy answer to a question, of at most `limit` tokens."""
        ids = self.token_ids(self.prompt.question_text(self.prompt.times_in_seconds(ask)))
        cache = self._build_cache(context, room=len(ids) + limit)
        answer = self.model.generate(ids, cache, limit, self.end_id)
        text: str = self.tokenizer.decode(answer)
        return text.strip()

    def shape_only_chunk(self, stills: int, latest: timedelta) -> tuple[KVChunk, int]:
        """Return the largest chunk of stills, on the meta device, and its visual tokens' bytes."""
        timestamp_tokens = len(self.token_ids(self.prompt.last_timestamp(latest)))
        return self.model.shape_only_chunk(self.dtype, stills, timestamp_tokens)

    def group_times(self, window: Window) -> tuple[datetime, ...]:
        """Return when each group of a window's stills begins."""
        return tuple(still.at for still in window.stills[:: self._stills_per_group])

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of the model."""
        return self.prefix.keys_NKTD.dtype

    def _require_finite(self, work: Callable[[], Made], is_valid: Callable[[Made], bool]) -> Made:
        """Return the output of work; if float16 overflows, switch to bfloat16 for good.

        Raises Unreadable if the output still is not finite.
        """
        output = work()
        if not is_valid(output) and self._switch_to_bfloat16():
            output = work()
        if not is_valid(output):
            raise Unreadable(NOT_FINITE)
        return output

    def _switch_to_bfloat16(self) -> bool:
        """Reload float16 weights as bfloat16; return whether that was possible."""
        if self._reload is None or self.dtype != torch.float16:
            return False
        logger.error("float16 overflowed: the model continues in bfloat16", model=self.name)
        self._reload(torch.bfloat16)
        self.prefix = self._prefill_prefix()
        if self.arena_decoder is not None:
            self.arena_decoder.convert(self.prefix)
        return True

    @torch.inference_mode()
    def _prefill_prefix(self) -> KVChunk:
        x_TE = self._embed(self.token_ids(self.prompt.PREFIX))
        return self.model.prefill(x_TE, _all_text(len(x_TE)), self.model.cache())

    def _build_cache(self, context: Sequence[AnyChunk], room: int = 0) -> KVCache:
        chunks = [form.restored() if isinstance(form, ArenaChunk) else form for form in context]
        return self.model.cache((self.prefix, *chunks), self.proportional_attention, room)

    def _embed(self, ids: Sequence[int]) -> Tensor:
        return self.model.language.embed(torch.tensor(ids, device=self.model.device))


def is_finite(*outputs: AnyChunk | Tensor) -> bool:
    """Return whether all numbers are finite; waits for the device once."""
    tensors = list[Tensor]()
    for each in outputs:
        if isinstance(each, Tensor):
            tensors.append(each)
            continue
        chunk = each.restored() if isinstance(each, ArenaChunk) else each
        tensors += [chunk.keys_NKTD, chunk.values_NKTD]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def _all_text(tokens: int) -> Tensor:
    return torch.ones(tokens, dtype=torch.bool)


def _anchors(timestamp_ids: Sequence[Sequence[int]], visual: int) -> Tensor:
    """Return which tokens are text: each timestamp, before its group of visual tokens."""
    return torch.cat(
        [part for ids in timestamp_ids for part in (_all_text(len(ids)), ~_all_text(visual))]
    )
