"""The model while it is taught: with heads that are thrown away afterwards, and its losses.

Legend: B streams, W windows of a stream, N stills, G groups, L labels, h w rows and columns of
patches, V visual tokens of a group (u v their rows and columns), E decoder width, T tokens.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from analyzer.kv.cache import KVCache, KVChunk, concatenate_chunks
from analyzer.kv.forward import (
    ForwardContext,
    StreamSlice,
    attention_block,
    chunk_attention_blocks,
    packed_text_mask,
)
from analyzer.models.videoxl2 import prompt
from analyzer.models.videoxl2.config import STILLS_PER_GROUP, VideoXL2Config
from analyzer.models.videoxl2.dts import (
    DynamicTokenSynthesis,
    SpatialAttention,
    TemporalAttention,
    TemporalDownsample,
)
from analyzer.models.videoxl2.model import VideoXL2
from analyzer.models.videoxl2.vision import group_stills
from analyzer.nano.workshop.school.batches import TokenizedLesson, TrainingBatch, group_labels
from analyzer.nano.workshop.school.reels import LABELS

COMPRESSION = 4
"""The pooling of a memory for chunks that are not recent."""
BORDER_WEIGHT = 0.3
"""Weight of a patch next to a labelled one, because the borders of bodies are unclear."""
WORDS_WEIGHT = 0.5
"""How much answers in words weigh against yes and no."""


class Student(nn.Module):
    """The model with heads for the labels of a patch, a group and a visual token.

    `ideal` maps labels to visual tokens, as if the tower were perfect: with them the decoder learns
    to answer before the tower is trained.
    """

    def __init__(self, config: VideoXL2Config, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model = VideoXL2(config)
        self.tokenizer = tokenizer
        channels, width = config.tower["hidden_size"], config.language["hidden_size"]
        self.of_patch = nn.Conv2d(channels, len(LABELS), 1)
        self.of_group = nn.Conv2d(channels, len(LABELS), 1)
        self.of_token = nn.Linear(width, len(LABELS))
        self.ideal = nn.Linear(len(LABELS), width)
        init_as_average(self.model.sae)

    def vision_losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Return the losses of the labels in a batch of stills."""
        patches = batch.patches_BNLhw.flatten(0, 1)
        features = self.model.vision_tower(batch.pixels_BNCHW.flatten(0, 1))
        merged = self.model.sae(group_stills(features))
        groups = group_labels(patches)
        few = F.max_pool2d(groups, self.model.config.pool)
        return {
            "patch": label_loss(self.of_patch(features), patches),
            "group": label_loss(self.of_group(merged), groups),
            "token": self._token_loss(self.model.mm_projector(merged), few),
        }

    def projected_tokens(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return visual tokens (B, G, V, E) of what the synthesis made, and what they tell of."""
        tokens_GVE = self.model.mm_projector(batch.merged_BGChw.flatten(0, 1))
        loss = self._token_loss(tokens_GVE, batch.tokens_BGLuv.flatten(0, 1))
        return tokens_GVE.unflatten(0, (len(batch.merged_BGChw), -1)), {"token": loss}

    def ideal_tokens(self, batch: TrainingBatch) -> Tensor:
        """Return the visual tokens (B, G, V, E) of a nearly perfect tower."""
        labels = batch.tokens_BGLuv.flatten(3).transpose(2, 3)
        missed = torch.rand_like(labels) < 0.04
        tokens: Tensor = self.ideal(labels.clamp(max=3).masked_fill(missed, 0))
        return tokens + 0.1 * torch.randn_like(tokens)

    def answer_losses(
        self, tokens_BGVE: Tensor, batch: TrainingBatch, is_pooled_W: Tensor
    ) -> dict[str, Tensor]:
        """Return the losses of the answers, with streams prefilled chunk by chunk as by a memory.

        Windows that `is_pooled_W` marks are pooled once they are not the latest, for the later
        windows and for the questions.
        """
        windows = len(batch.lessons[0])
        context = [self._prefix(len(batch.lessons))]
        logits, answers = list[Tensor](), list[TokenizedLesson]()
        for w, tokens in enumerate(tokens_BGVE.chunk(windows, dim=1)):
            context.append(
                self.prefill(tokens, batch.start + STILLS_PER_GROUP * w * tokens.shape[1], context)
            )
            asked = [sorted(asks[w], key=lambda ask: len(ask.question)) for asks in batch.lessons]
            logits.append(self.answer_logits(asked, context))
            answers += [ask for asks in asked for ask in asks]
            if is_pooled_W[w]:
                context[-1] = context[-1].pooled(COMPRESSION)
        return _answer_losses(torch.cat(logits), answers)

    def prefill(self, tokens_BGVE: Tensor, start: float, context: Sequence[KVChunk]) -> KVChunk:
        """Read a window of each stream behind what is held; the heads stand side by side."""
        parts, anchors = list[Tensor](), list[Tensor]()
        for g, tokens_BVE in enumerate(tokens_BGVE.unbind(1)):
            words = self._embedded(prompt.timestamp(start + g * STILLS_PER_GROUP))
            parts += [words.expand(len(tokens_BVE), -1, -1), tokens_BVE.to(words)]
            anchors += [torch.ones(len(words)), torch.zeros(tokens_BVE.shape[1])]
        anchors_T, cache = torch.cat(anchors).bool(), self._cache(context)
        previous, language = self.model.config.previous, self.model.language
        blocks = chunk_attention_blocks(anchors_T, cache, previous)
        lane = StreamSlice(0, len(anchors_T), cache, blocks)
        reading = ForwardContext(cache.length + torch.arange(len(anchors_T)), [lane])
        language.collect_keys_values(torch.cat(parts, dim=1), reading)
        return reading.chunk(lane, anchors_T)

    def answer_logits(
        self, lessons: Sequence[Sequence[TokenizedLesson]], context: Sequence[KVChunk]
    ) -> Tensor:
        """Return the logits (T, vocabulary) for every token of every answer, stream by stream."""
        texts = [[ask.question + ask.answer[:-1] for ask in asks] for asks in lessons]
        lengths = [max(map(len, slot)) for slot in zip_longest(*texts, fillvalue=[])]
        ids_BT = torch.zeros(len(texts), sum(lengths), dtype=torch.long)
        rows = list[tuple[int, int]]()
        for b, asks in enumerate(lessons):
            for n, ask in enumerate(asks):
                at = sum(lengths[:n])
                ids_BT[b, at : at + len(texts[b][n])] = torch.tensor(texts[b][n])
                first = at + len(ask.question) - 1
                rows += [(b, t) for t in range(first, first + len(ask.answer))]
        cache, language = self._cache(context), self.model.language
        packed, mask = slice(0, sum(lengths)), packed_text_mask(lengths)
        look = attention_block(cache.like, packed, cache.bias_groups(), mask)
        positions = torch.cat([cache.length + torch.arange(length) for length in lengths])
        reading = ForwardContext(positions, [StreamSlice(0, sum(lengths), cache, [look])])
        hidden_BTE = language.hidden_states(language.embed(ids_BT), reading)
        return language.logits(hidden_BTE[tuple(torch.tensor(rows).T)])

    def _prefix(self, streams: int) -> KVChunk:
        words = self._embedded(prompt.PREFIX)
        text = torch.ones(len(words), dtype=torch.bool)
        prefix = self.model.prefill(words, text, self.model.cache())
        keys, values = (x.repeat(1, streams, 1, 1) for x in (prefix.keys_NKTD, prefix.values_NKTD))
        return replace(prefix, keys_NKTD=keys, values_NKTD=values)

    def _cache(self, chunks: Sequence[KVChunk]) -> KVCache:
        """Return a cache of chunks; as one where none is too far back to be seen whole."""
        is_near = len(chunks) <= 1 + self.model.config.previous
        return self.model.cache([concatenate_chunks(chunks)] if is_near else chunks)

    def _token_loss(self, tokens_GVE: Tensor, counts_GLuv: Tensor) -> Tensor:
        return _weighted_loss(
            self.of_token(tokens_GVE).transpose(1, 2), counts_GLuv.flatten(2), None
        )

    def _embedded(self, text: str) -> Tensor:
        return self.model.language.embed(torch.tensor(self.tokenizer.encode(text).ids))


def draw_pooled(batch: TrainingBatch) -> Tensor:
    """Draw which windows (W) are pooled: about half, in some batches all or none."""
    return torch.rand(len(batch.lessons[0])) < torch.rand(1)


def label_loss(logits_NLhw: Tensor, counts_NLhw: Tensor) -> Tensor:
    """Return the loss of telling which labels hold of which place."""
    present = (counts_NLhw > 0).float()
    beside = (F.max_pool2d(present, 3, 1, 1) > present).float()
    return _weighted_loss(
        logits_NLhw.flatten(2), present.flatten(2), (1 - (1 - BORDER_WEIGHT) * beside).flatten(2)
    )


def _weighted_loss(logits_NLP: Tensor, counts_NLP: Tensor, weight_NLP: Tensor | None) -> Tensor:
    weights = torch.tensor(list(LABELS.values()))[:, None]
    return F.binary_cross_entropy_with_logits(
        logits_NLP.float(), (counts_NLP > 0).float(), weight_NLP, pos_weight=weights
    )


def _answer_losses(logits_TV: Tensor, asks: Sequence[TokenizedLesson]) -> dict[str, Tensor]:
    """Return the loss of each sort of answers that there is, and the share that is right."""
    targets_T = torch.tensor([id for ask in asks for id in ask.answer])
    worded_T = torch.tensor([ask.is_word for ask in asks for _ in ask.answer])
    rarity_T = torch.tensor([ask.rarity for ask in asks for _ in ask.answer])
    each = rarity_T * F.cross_entropy(logits_TV.float(), targets_T, reduction="none")
    right = (logits_TV.detach().argmax(-1) == targets_T).float()
    losses = dict[str, Tensor]()
    for name, own, weight in (("yes_no", ~worded_T, 1.0), ("words", worded_T, WORDS_WEIGHT)):
        if own.any():
            losses[name], losses[f"right_{name}"] = weight * each[own].mean(), right[own].mean()
    return losses


def init_as_average(synthesis: DynamicTokenSynthesis) -> None:
    """Start the synthesis as an average over time, so that all that the tower sees gets through."""
    for block in synthesis.encoder:
        if isinstance(block, TemporalDownsample):
            for name, parameter in block.conv.named_parameters():
                nn.init.normal_(parameter, std=0.005 if name == "weight" else 0.0)
            same = torch.eye(block.conv.in_channels)
            block.conv.weight.data[:, :, 1:, 1, 1] += same[:, :, None] / 2
        elif isinstance(block, SpatialAttention | TemporalAttention):
            nn.init.zeros_(block.proj_out.weight)
