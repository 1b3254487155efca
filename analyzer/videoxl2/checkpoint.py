"""Weights on disk: nano's own, in the key layout that the reference publishes.

A checkpoint is a folder with `config.json`, `tokenizer.json` and `weights.safetensors`.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from analyzer.videoxl2.config import VideoXL2Config
from analyzer.videoxl2.model import VideoXL2
from analyzer.videoxl2.speaker import Speaker

NANO = Path(__file__).parent.parent / "nano"
FILES = ("config.json", "tokenizer.json", "weights.safetensors")
UNUSED = "model.text_mlp."
"""The reference's evaluation class has this module and never calls it."""


class ModelUnusable(Exception):
    """Say why a model cannot be loaded and what to do."""


def load_model(name: str, device: str) -> Speaker:
    """Load `nano` or a checkpoint folder to `auto`, `cpu` or a CUDA device.

    Raises ModelUnusable where files are missing or do not fit together.
    """
    folder = NANO if name == "nano" else Path(name)
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        raise ModelUnusable(
            f"model {name}: no {', '.join(missing)} in {folder}; use `nano` or name a folder"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = VideoXL2(VideoXL2Config.read(folder / "config.json"))
    try:
        load_weights(model, load_file(folder / "weights.safetensors"))
    except SafetensorError as error:
        raise ModelUnusable(f"model {name}: {folder / 'weights.safetensors'}: {error}") from error
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Speaker(model.to(device), tokenizer, f"{folder.name}@{digest(folder)}")


def digest(folder: Path) -> str:
    """Return the first 12 hex digits of the SHA-256 over the files of a checkpoint."""
    sha = hashlib.sha256()
    for file in FILES:
        sha.update((folder / file).read_bytes())
    return sha.hexdigest()[:12]


def load_weights(model: VideoXL2, weights: Mapping[str, Tensor]) -> None:
    """Fill a model from weights under the reference's key names, in the model's own precision.

    Raises ModelUnusable that names the first keys that are missing or not expected.
    """
    own = model.state_dict()
    names = {reference_name(key): key for key in own}
    if model.config.language.get("tie_word_embeddings"):
        del names["lm_head.weight"]
    missing = sorted(names.keys() - weights.keys())
    strange = sorted(k for k in weights.keys() - names.keys() if not k.startswith(UNUSED))
    if missing or strange:
        raise ModelUnusable(
            f"weights do not fit: missing {missing[:5]}, not expected {strange[:5]}"
        )
    with torch.no_grad():
        for name, key in names.items():
            if own[key].shape != weights[name].shape:
                raise ModelUnusable(
                    f"weights do not fit: {name} is {list(weights[name].shape)}, "
                    f"the configuration says {list(own[key].shape)}"
                )
            own[key].copy_(weights[name])


def save_weights(model: VideoXL2, path: Path) -> None:
    """Write half-precision weights under the reference's key names."""
    weights = {reference_name(k): v.contiguous() for k, v in model.state_dict().items()}
    if model.config.language.get("tie_word_embeddings"):
        del weights["lm_head.weight"]
    save_file({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, path)


def reference_name(key: str) -> str:
    """Return the name that the reference gives to one of our weights."""
    if key.startswith("language.decoder."):
        return key.removeprefix("language.decoder.")
    if key.startswith("vision_tower."):
        return f"model.vision_tower.{key}"
    return f"model.{key}"
