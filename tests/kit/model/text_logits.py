"""The logits after texts."""

from collections.abc import Sequence

from torch import Tensor

from analyzer.kv.cache import KVCache
from analyzer.models.video_model import VideoModel


def text_logits(model: VideoModel, texts_ids: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
    """Return the logits (Q, vocabulary) after each of Q texts; the cache does not change."""
    return model.language.logits(model.forward_texts([(texts_ids, cache)])[0].hidden_QE)
