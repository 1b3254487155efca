"""Small models as files, in the layout in which the reference is published."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from analyzer.models.videoxl2.checkpoint_keys import reference_name
from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.models.videoxl2.model import VideoXL2
from analyzer.nano.workshop.lessons.lessons import make_tokenizer

INDEX = "model.safetensors.index.json"
TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}
LANGUAGE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MULTIMODAL = {
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "mm_hidden_size": 64,
    "mm_patch_merge_type": "unires",
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": "spatial_pool",
    "mm_spatial_pool_mode": "average",
    "mm_spatial_pool_stride": 2,
    "mm_vision_select_layer": -2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 768,
}
PUBLISHED = {
    **MULTIMODAL,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "mm_hidden_size": 1152,
    "mm_vision_tower": "/share/somebody/google/siglip-so400m-patch14-384",
}
"""The 8B model's fields as far as they are known: LLaVA's, with the training script's values."""


def small_config(**changes: Any) -> dict[str, Any]:
    return {**MULTIMODAL, **LANGUAGE, "vision_config": TOWER, **changes}


def write_json(path: Path, fields: object) -> None:
    path.write_text(json.dumps(fields))


def weights_of(model: VideoXL2) -> dict[str, Tensor]:
    """Return a model's weights under the names of the reference."""
    return {reference_name(key): tensor for key, tensor in model.state_dict().items()}


def random_model(folder: Path, **changes: Any) -> VideoXL2:
    """Write a configuration and a tokenizer, and return a model that fits them."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", small_config(**changes))
    tokenizer().save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    return VideoXL2(VideoXL2Config.read(folder / "config.json")).eval()


def tokenizer() -> Tokenizer:
    return make_tokenizer(768)


def write_shards(folder: Path, weights: Mapping[str, Tensor], shards: int = 2) -> list[Path]:
    """Write weights as several safetensors files with an index, and return them."""
    names, paths, where = sorted(weights), list[Path](), dict[str, str]()
    for n in range(shards):
        path = folder / f"model-{n + 1:05}-of-{shards:05}.safetensors"
        held = {name: weights[name].contiguous() for name in names[n::shards]}
        save_file(held, path, metadata={"format": "pt"})
        where |= dict.fromkeys(held, path.name)
        paths.append(path)
    size = sum(tensor.nbytes for tensor in weights.values())
    write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": where})
    return paths


def write_model(folder: Path, **changes: Any) -> VideoXL2:
    """Write a whole checkpoint of random weights, and return the model saved."""
    model = random_model(folder, **changes)
    write_shards(folder, weights_of(model))
    return model
