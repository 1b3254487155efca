"""A model together with its words: stills and questions in, keys and margins out.

Legend: G groups, V visual tokens of a group, E decoder width, T tokens.
"""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from analyzer.videoxl2 import prompt
from analyzer.videoxl2.config import STILLS_PER_GROUP
from analyzer.videoxl2.language import Layers
from analyzer.videoxl2.model import VideoXL2
from analyzer.videoxl2.vision import Background, follow, pixels_of


class Speaker:
    """A model with its tokenizer; `name` says exactly which weights these are."""

    def __init__(self, model: VideoXL2, tokenizer: Tokenizer, name: str) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.yes, self.no = (self.ids(word)[0] for word in (prompt.YES, prompt.NO))
        with torch.inference_mode():
            self.prefix = self.model.prefill(self._words(prompt.BEFORE), ())

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
        behind: Sequence[Layers],
    ) -> tuple[Layers, Background | None]:
        """Prefill one window behind what is held; `seconds` are the times of its stills."""
        config = self.model.config
        pixels = pixels_of(jpegs, config.height, config.width).to(self.model.device)
        if config.stem == "conv":
            differences, background = follow(background, pixels)
            pixels = torch.cat([pixels, 3 * differences], dim=1)
        tokens_GVE = self.model.see(pixels)
        x_TE = self.interleave(tokens_GVE, seconds)
        return self.model.prefill(x_TE, (self.prefix, *behind)), background

    def interleave(self, tokens_GVE: Tensor, seconds: Sequence[float]) -> Tensor:
        """Put each group behind the timestamp of its first still: (T, E)."""
        parts: list[Tensor] = []
        for tokens_VE, second in zip(tokens_GVE, seconds[::STILLS_PER_GROUP], strict=True):
            parts += [self._words(prompt.timestamp(second)), tokens_VE]
        return torch.cat(parts)

    @torch.inference_mode()
    def margins(self, asks: Sequence[str], behind: Sequence[Layers]) -> list[float]:
        """Return logit(yes) - logit(no) for each question, read behind what is held."""
        texts = [self.ids(prompt.question(ask)) for ask in asks]
        logits = self.model.ask(texts, (self.prefix, *behind))
        margins: list[float] = (logits[:, self.yes] - logits[:, self.no]).tolist()
        return margins

    def _words(self, text: str) -> Tensor:
        return self.model.language.embed(torch.tensor(self.ids(text), device=self.model.device))
