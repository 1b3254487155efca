"""A model together with its words: stills and questions in, chunks, margins and text out.

Legend: G groups, V visual tokens of a group, E decoder width, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from analyzer.videoxl2 import prompt
from analyzer.videoxl2.config import STILLS_PER_GROUP
from analyzer.videoxl2.kv import KVCache, KVChunk
from analyzer.videoxl2.model import VideoXL2
from analyzer.videoxl2.vision import Background, decode, follow, normalise


@dataclass(frozen=True, slots=True)
class Watched:
    """What a window left: its chunk, the background after it, and how many stills were corrupt."""

    chunk: KVChunk
    background: Background | None
    corrupt: int


class Speaker:
    """A model with its tokenizer; `name` says exactly which weights these are."""

    def __init__(self, model: VideoXL2, tokenizer: Tokenizer, name: str) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
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
    def watch(
        self,
        jpegs: Sequence[bytes],
        seconds: Sequence[float],
        background: Background | None,
        behind: Sequence[KVChunk],
    ) -> Watched:
        """Prefill one window behind what is held; `seconds` are the times of its stills.

        A corrupt still is replaced by the one before it. Raises Unreadable where none is whole.
        """
        config = self.model.config
        stills_NHWC, corrupt = decode(jpegs, config.height, config.width)
        pixels = normalise(stills_NHWC).to(self.model.device)
        if config.stem == "conv":
            differences, background = follow(background, pixels)
            pixels = torch.cat([pixels, 3 * differences], dim=1)
        tokens_GVE = self.model.see(pixels.to(self.prefix.keys_NKTD.dtype))
        x_TE, anchors_T = self.interleave(tokens_GVE, seconds)
        chunk = self.model.prefill(x_TE, anchors_T, self._cache(behind))
        return Watched(chunk, background, corrupt)

    def interleave(self, tokens_GVE: Tensor, seconds: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Put each group behind the timestamp of its first still: (T, E), and which are text."""
        parts, anchors = list[Tensor](), list[Tensor]()
        for tokens_VE, second in zip(tokens_GVE, seconds[::STILLS_PER_GROUP], strict=True):
            words = self._words(prompt.timestamp(second))
            parts += [words, tokens_VE]
            anchors += [_text(len(words)), ~_text(len(tokens_VE))]
        return torch.cat(parts), torch.cat(anchors)

    @torch.inference_mode()
    def margins(self, asks: Sequence[str], behind: Sequence[KVChunk]) -> list[float]:
        """Return logit(yes) - logit(no) for each question, read behind what is held."""
        texts = [self.ids(prompt.question(ask)) for ask in asks]
        logits = self.model.ask(texts, self._cache(behind))
        margins: list[float] = (logits[:, self.yes] - logits[:, self.no]).tolist()
        return margins

    @torch.inference_mode()
    def say(self, ask: str, behind: Sequence[KVChunk], limit: int = 128) -> str:
        """Return the greedy answer to a question, of at most `limit` tokens."""
        ids = self.ids(prompt.question(prompt.in_seconds(ask)))
        answer = self.model.answer(ids, self._cache(behind), limit, self.end)
        text: str = self.tokenizer.decode(answer)
        return text.strip()

    def _cache(self, behind: Sequence[KVChunk]) -> KVCache:
        return self.model.cache((self.prefix, *behind))

    def _words(self, text: str) -> Tensor:
        return self.model.language.embed(torch.tensor(self.ids(text), device=self.model.device))


def _text(tokens: int) -> Tensor:
    return torch.ones(tokens, dtype=torch.bool)
