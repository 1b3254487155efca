"""One model class: the 8B Video-XL-2 and nano are configurations of it.

Legend: N stills, C channels, H W pixels, G groups, V visual tokens of a group, E decoder
width, T tokens, Q questions, N layers, H heads, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analyzer.videoxl2.config import VideoXL2Config
from analyzer.videoxl2.dts import DynamicTokenSynthesis
from analyzer.videoxl2.kv import KVCache, KVChunk
from analyzer.videoxl2.language import Lane, Language, Reading, chunk_looks, side_by_side
from analyzer.videoxl2.projector import Projector
from analyzer.videoxl2.vision import VisionTower, group


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk to read: embeddings, which of them are text (on the CPU), and what lies before."""

    x_TE: Tensor
    anchors_T: Tensor
    cache: KVCache


@dataclass(frozen=True, slots=True)
class Asked:
    """The decoder's last state after each text, and the queries of its last token.

    The queries are of every layer, before RoPE.
    """

    hidden_QE: Tensor
    queries_NQHD: Tensor


class VideoXL2(nn.Module):
    """SigLIP tower, Dynamic Token Synthesis, projector and Qwen2 decoder."""

    def __init__(self, config: VideoXL2Config) -> None:
        super().__init__()
        self.config = config
        language = config.language_config()
        channels = config.tower["hidden_size"]
        self.vision_tower = VisionTower(config)
        self.sae = DynamicTokenSynthesis(channels)
        self.mm_projector = Projector(channels, language.hidden_size, config.pool)
        self.language = Language(language)

    def see(self, pixels_NCHW: Tensor) -> Tensor:
        """Return the visual tokens (G, V, E) of normalised stills, the last group filled up."""
        return self.see_features(self.vision_tower(pixels_NCHW))

    def see_features(self, features_NChw: Tensor) -> Tensor:
        """Return the visual tokens (G, V, E) of what the tower made of the stills."""
        tokens: Tensor = self.mm_projector(self.sae(group(features_NChw)))
        return tokens

    def cache(
        self, chunks: Sequence[KVChunk] = (), corrected: bool = False, room: int = 0
    ) -> KVCache:
        """Return a cache with chunks laid into it, and `room` for more tokens."""
        return self.language.cache(chunks, corrected, room)

    def prefill(self, x_TE: Tensor, anchors_T: Tensor, cache: KVCache) -> KVChunk:
        """Read one chunk of embeddings behind a cache, which stays as it is.

        `anchors_T` (on the CPU) marks text. Reading a stream chunk by chunk, each appended to
        the cache, equals one pass under the mask of the reference.
        """
        return self.prefill_all([Piece(x_TE, anchors_T, cache)])[0]

    def prefill_all(self, pieces: Sequence[Piece]) -> list[KVChunk]:
        """Read chunks of several streams in one pass."""
        lanes, positions, begin = list[Lane](), list[Tensor](), 0
        for piece in pieces:
            end = begin + len(piece.x_TE)
            looks = chunk_looks(
                self.language, piece.anchors_T, piece.cache, self.config.previous, begin
            )
            lanes.append(Lane(begin, end, piece.cache, looks))
            positions.append(piece.cache.length + torch.arange(end - begin))
            begin = end
        reading = Reading(torch.cat(positions).to(self.device), lanes)
        self.language.remember(torch.cat([piece.x_TE for piece in pieces])[None], reading)
        return [
            reading.chunk(lane, piece.anchors_T) for lane, piece in zip(lanes, pieces, strict=True)
        ]

    def ask(self, texts_ids: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Return the logits (Q, vocabulary) after each of Q texts, all read in one pass.

        The texts do not see each other, and the cache stays as it is.
        """
        return self.language.logits(self.ask_all([(texts_ids, cache)])[0].hidden_QE)

    def ask_all(self, asks: Sequence[tuple[Sequence[Sequence[int]], KVCache]]) -> list[Asked]:
        """Read texts behind several caches in one pass."""
        hidden, reading = self._read_texts(asks)
        ends, answers, first = reading.ends_Q, list[Asked](), 0
        for texts, _ in asks:
            own = slice(first, first + len(texts))
            queries = torch.stack([layer[0, :, own].transpose(0, 1) for layer in reading.asked])
            answers.append(Asked(hidden[ends[own]], queries))
            first = own.stop
        return answers

    def answer(self, ids: Sequence[int], cache: KVCache, limit: int, stop: int) -> list[int]:
        """Return the greedy continuation of a text: at most `limit` ids, without `stop`."""
        length, answer = cache.length, list[int]()
        while len(answer) < limit:
            hidden, reading = self._read_texts([([ids], cache)])
            token = int(self.language.logits(hidden[-1]).argmax())
            if token == stop:
                break
            answer.append(token)
            text = torch.ones(len(ids), dtype=torch.bool)
            cache.append(reading.chunk(reading.lanes[0], text))
            ids = [token]
        cache.crop(length)
        return answer

    def _read_texts(
        self, asks: Sequence[tuple[Sequence[Sequence[int]], KVCache]]
    ) -> tuple[Tensor, Reading]:
        lanes, positions, begin = list[Lane](), list[Tensor](), 0
        for texts, cache in asks:
            lengths = [len(ids) for ids in texts]
            rows = slice(begin, begin + sum(lengths))
            look = self.language.look(rows, cache.parts(), side_by_side(lengths))
            lanes.append(Lane(begin, rows.stop, cache, [look]))
            positions += [cache.length + torch.arange(length) for length in lengths]
            begin = rows.stop
        flat = torch.tensor([i for texts, _ in asks for ids in texts for i in ids])
        ends = torch.tensor([len(own) for own in positions]).cumsum(0) - 1
        reading = Reading(torch.cat(positions).to(self.device), lanes, ends_Q=ends.to(self.device))
        x_TE = self.language.embed(flat.to(self.device))
        return self.language.read(x_TE[None], reading)[0], reading

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return next(self.parameters()).device
