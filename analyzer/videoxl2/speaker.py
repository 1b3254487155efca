"""A model together with its words: stills and questions in, chunks, margins and text out.

Legend: G groups, V visual tokens of a group, E decoder width, T tokens, N layers, Q questions,
H heads, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from tokenizers import Tokenizer
from torch import Tensor

from analyzer.videoxl2 import prompt
from analyzer.videoxl2.blank import blank_chunk
from analyzer.videoxl2.config import STILLS_PER_GROUP
from analyzer.videoxl2.kv import KVCache, KVChunk
from analyzer.videoxl2.model import Piece, VideoXL2
from analyzer.videoxl2.vision import Background, decode, filled, follow, normalise
from storage.errors import Unreadable


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
        self, model: VideoXL2, tokenizer: Tokenizer, name: str, corrected: bool = False
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.corrected = corrected
        self.yes, self.no, self.end = (
            self.ids(word)[0] for word in (prompt.YES, prompt.NO, prompt.END)
        )
        with torch.inference_mode():
            x_TE = self._words(prompt.BEFORE)
            self.prefix = model.prefill(x_TE, _text(len(x_TE)), model.cache())

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    @torch.inference_mode()
    def see(self, windows: Sequence[tuple[Sequence[bytes], Background | None]]) -> list[Seen]:
        """Look at the stills of windows, each with the background so far, in one pass.

        A corrupt still is replaced by the one before it. Raises Unreadable where none is whole.
        """
        config, pixels, grounds, corrupts = self.model.config, [], [], []
        for jpegs, before in windows:
            background = before
            stills_NHWC, corrupt = decode(jpegs, config.height, config.width)
            still_NCHW = normalise(stills_NHWC).to(self.prefix.keys_NKTD)
            if config.stem == "conv":
                differences, background = follow(before, still_NCHW)
                still_NCHW = torch.cat([still_NCHW, 3 * differences], dim=1)
            pixels.append(filled(still_NCHW))
            grounds.append(background)
            corrupts.append(corrupt)
        groups = [len(stills) // STILLS_PER_GROUP for stills in pixels]
        tokens = self.model.see(torch.cat(pixels)).split(groups)
        return [
            Seen(tokens_GVE.cpu().clone(), background, corrupt)
            for tokens_GVE, background, corrupt in zip(tokens, grounds, corrupts, strict=True)
        ]

    @torch.inference_mode()
    def read(
        self, pieces: Sequence[tuple[Tensor, Sequence[float], Sequence[KVChunk]]]
    ) -> list[KVChunk]:
        """Prefill windows in one pass: visual tokens, the seconds of its groups, what lies before.

        Raises Unreadable where the model makes of them what is no number.
        """
        asked = []
        for tokens_GVE, seconds, behind in pieces:
            x_TE, anchors_T = self.interleave(tokens_GVE.to(self.model.device), seconds)
            asked.append(Piece(x_TE, anchors_T, self._cache(behind)))
        chunks = self.model.prefill_all(asked)
        if not all(bool(chunk.values_NKTD.isfinite().all()) for chunk in chunks):
            raise Unreadable("the model made of it what is no number")
        return chunks

    def watch(
        self,
        jpegs: Sequence[bytes],
        seconds: Sequence[float],
        background: Background | None,
        behind: Sequence[KVChunk],
    ) -> tuple[KVChunk, Background | None]:
        """See and prefill one window; `seconds` are the times of its stills."""
        (seen,) = self.see([(jpegs, background)])
        (chunk,) = self.read([(seen.tokens_GVE, seconds[::STILLS_PER_GROUP], behind)])
        return chunk, seen.background

    def interleave(self, tokens_GVE: Tensor, seconds: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Put each group behind its timestamp: (T, E), and which of them are text."""
        parts, anchors = list[Tensor](), list[Tensor]()
        for tokens_VE, second in zip(tokens_GVE, seconds, strict=True):
            words = self._words(prompt.timestamp(second))
            parts += [words, tokens_VE]
            anchors += [_text(len(words)), ~_text(len(tokens_VE))]
        return torch.cat(parts), torch.cat(anchors)

    @torch.inference_mode()
    def ask(self, asks: Sequence[tuple[Sequence[str], Sequence[KVChunk]]]) -> list[Said]:
        """Ask yes/no questions behind what is held, several sets of them in one pass."""
        answers = self.model.ask_all(
            [
                ([self.ids(prompt.question(ask)) for ask in texts], self._cache(behind))
                for texts, behind in asks
            ]
        )
        language = self.model.language
        return [
            Said(language.margins(asked.hidden_QE, self.yes, self.no).tolist(), asked.queries_NQHD)
            for asked in answers
        ]

    def margins(self, asks: Sequence[str], behind: Sequence[KVChunk]) -> list[float]:
        """Return logit(yes) - logit(no) for each question, read behind what is held."""
        return self.ask([(asks, behind)])[0].margins

    @torch.inference_mode()
    def say(self, ask: str, behind: Sequence[KVChunk], limit: int = 128) -> str:
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

    def _cache(self, behind: Sequence[KVChunk], room: int = 0) -> KVCache:
        return self.model.cache((self.prefix, *behind), self.corrected, room)

    def _words(self, text: str) -> Tensor:
        return self.model.language.embed(torch.tensor(self.ids(text), device=self.model.device))


def _text(tokens: int) -> Tensor:
    return torch.ones(tokens, dtype=torch.bool)
