"""From files to a model and back, under the key names that the reference publishes."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from analyzer.errors import ModelUnusable
from analyzer.machine import kind_of, place_of
from analyzer.videoxl2.config import VideoXL2Config
from analyzer.videoxl2.model import VideoXL2
from analyzer.videoxl2.shards import Weights
from analyzer.videoxl2.snapshot import Snapshot
from analyzer.videoxl2.speaker import Speaker

UNUSED = "model.text_mlp."
"""The reference's evaluation class has this module and never calls it."""
TOLD = 5
"""So many keys of each kind are named in an error."""


def load_model(name: str, device: str, dtype: str = "auto", revision: str | None = None) -> Speaker:
    """Load `nano`, a folder, or what was fetched from the hub, to `auto`, `cpu` or a CUDA device.

    `dtype` is `auto` (what the family names on CUDA, float32 on a CPU), `float32`, `bfloat16`
    or `float16`.
    Every file is read whole once, for its digest. Raises ModelUnusable.
    """
    place = place_of(device)
    snapshot = Snapshot.find(name, revision)
    kind = kind_of(dtype, place, snapshot.config.on_cuda)
    identity = snapshot.identity()
    model, weights = blank(snapshot.config), Weights(snapshot.shards)
    try:
        load_weights(model, weights, place, kind)
    except torch.OutOfMemoryError as error:
        raise ModelUnusable(f"{snapshot.folder}: does not fit on {place} as {kind}") from error
    except ModelUnusable as error:
        raise ModelUnusable(f"{snapshot.folder}: {error}") from error
    return Speaker(model, snapshot.tokenizer, identity)


def blank(config: VideoXL2Config) -> VideoXL2:
    """Return a model whose weights have shapes and take no memory.

    What is computed and not learned, and so in no checkpoint, is there.
    """
    with torch.device("meta"):
        model = VideoXL2(config)
    decoder = model.language.decoder.model
    decoder.rotary_emb = type(decoder.rotary_emb)(decoder.config)
    for module in model.modules():
        ids = module._buffers.get("position_ids")
        if ids is not None:
            module.register_buffer("position_ids", torch.arange(ids.shape[-1])[None], False)
    return model


def load_weights(
    model: VideoXL2,
    weights: Mapping[str, Tensor],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Give a model weights under the reference's key names, copied one by one.

    Raises ModelUnusable that names the first keys that are missing, not expected or of another
    shape.
    """
    own = model.state_dict()
    names = {reference_name(key): key for key in own}
    if model.config.is_tied:
        del names["lm_head.weight"]
    _check_keys(set(names), set(weights))
    for name, key in names.items():
        weight = weights[name]
        _check_kind(name, weight, own[key])
        kept = dtype if weight.is_floating_point() else weight.dtype
        _set(model, key, weight.to(device, kept, copy=True))
    decoder = model.language.decoder
    if model.config.is_tied:
        decoder.lm_head.weight = decoder.model.embed_tokens.weight
    model.to(device)


def save_weights(model: VideoXL2, path: Path) -> None:
    """Write half-precision weights under the reference's key names."""
    weights = {reference_name(k): v.contiguous() for k, v in model.state_dict().items()}
    if model.config.is_tied:
        del weights["lm_head.weight"]
    save_file({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, path)


def reference_name(key: str) -> str:
    """Return the name that the reference gives to one of our weights."""
    if key.startswith("language.decoder."):
        return key.removeprefix("language.decoder.")
    if key.startswith("vision_tower."):
        return f"model.vision_tower.{key}"
    return f"model.{key}"


def _check_keys(wanted: set[str], found: set[str]) -> None:
    missing = sorted(wanted - found)
    strange = sorted(key for key in found - wanted if not key.startswith(UNUSED))
    told = [
        f"{len(keys)} {what} ({', '.join(keys[:TOLD])}{', ...' if len(keys) > TOLD else ''})"
        for what, keys in (("missing", missing), ("not expected", strange))
        if keys
    ]
    if told:
        raise ModelUnusable(f"weights do not fit: {'; '.join(told)}")


def _check_kind(name: str, found: Tensor, wanted: Tensor) -> None:
    if found.shape != wanted.shape:
        told = f"is {list(found.shape)}, the configuration says {list(wanted.shape)}"
        raise ModelUnusable(f"weights do not fit: {name} {told}")
    if found.is_floating_point() != wanted.is_floating_point():
        told = f"is of {found.dtype}, which is not {wanted.dtype}"
        raise ModelUnusable(f"weights do not fit: {name} {told}")


def _set(model: nn.Module, key: str, weight: Tensor) -> None:
    """Put a weight in the place of the one that a model has under this key."""
    parent, _, leaf = key.rpartition(".")
    module = model.get_submodule(parent)
    is_learned = isinstance(getattr(module, leaf), nn.Parameter)
    setattr(module, leaf, nn.Parameter(weight) if is_learned else weight)
