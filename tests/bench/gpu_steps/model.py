"""The published model with random weights, at its size or in small, and a speaker for it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from analyzer.models.loading import load_weights
from analyzer.models.runner import ModelRunner
from analyzer.models.videoxl2.checkpoint_keys import reference_name
from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.models.videoxl2.model import VideoXL2, build_meta_model
from analyzer.models.videoxl2.prompt import NO, YES

TOKENIZER = Path(__file__).parents[3] / "analyzer" / "nano" / "tokenizer.json"
"""Its timestamps have as many tokens as Qwen's."""
DEVIATION = 0.02
"""Of random weights, as Qwen2 is initialised."""


def small_shapes(config: VideoXL2Config) -> VideoXL2Config:
    """Return the same model in small: two layers of tower and decoder, heads as wide as its."""
    tower = {"hidden_size": 288, "intermediate_size": 96, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 4, "image_size": 112}
    language = {"hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 2}
    language |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1024}
    return replace(
        config,
        height=112,
        width=112,
        grid=(8, 8),
        tower={**config.tower, **tower},
        language={**config.language, **language},
    )


def tiny_shapes(config: VideoXL2Config) -> VideoXL2Config:
    """Return the same with a narrower tower, for a CPU."""
    small = small_shapes(config)
    return replace(small, tower={**small.tower, "hidden_size": 64})


class RandomWeights(Mapping[str, Tensor]):
    """Weights for a model, each made on the device when it is asked for."""

    def __init__(self, model: VideoXL2, dtype: torch.dtype, device: torch.device) -> None:
        self._shapes = {reference_name(key): value for key, value in model.state_dict().items()}
        self._dtype, self._device = dtype, device
        self._random = torch.Generator(device).manual_seed(0)

    def __getitem__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        if not shape.is_floating_point():
            return torch.zeros_like(shape, device=self._device)
        weight = torch.empty(shape.shape, dtype=self._dtype, device=self._device)
        if weight.dim() == 1 and name.endswith(("weight", "running_var")):
            return weight.fill_(1.0)
        return weight.normal_(0, DEVIATION, generator=self._random)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def random_model(
    config: VideoXL2Config, dtype: torch.dtype, device: torch.device | str
) -> VideoXL2:
    """Return a model whose random weights are made where it runs."""
    model = build_meta_model(config)
    load_weights(model, RandomWeights(model, dtype, torch.device(device)), device, dtype)
    return model.eval()


def runner_of(model: VideoXL2) -> ModelRunner:
    return ModelRunner(model, Tokenizer.from_file(str(TOKENIZER)), "random@0")


def quiet(model: VideoXL2) -> VideoXL2:
    """Make every margin 0, which is a no: where no yes begins, nothing is looked at again."""
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    yes, no = (tokenizer.encode(word, add_special_tokens=False).ids[0] for word in (YES, NO))
    with torch.no_grad():
        head = model.language.decoder.lm_head.weight
        head[yes] = head[no]
    return model
