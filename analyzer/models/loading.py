"""From files to a model and back, under the key names that the reference publishes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import structlog
import torch
from safetensors.torch import save_file
from torch import Tensor

from analyzer.device import device_of, device_unusable, dtype_of
from analyzer.errors import ModelUnusable
from analyzer.models.checkpoint.shards import TensorEntry, tensors_of
from analyzer.models.checkpoint.weights import TORCH_DTYPES, WeightLoader, WeightTarget
from analyzer.models.files import ModelFiles
from analyzer.models.runner import ModelRunner
from analyzer.models.videoxl2.checkpoint_keys import LM_HEAD, ExpectedTensor, KeyCheck, check_keys
from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.models.videoxl2.model import VideoXL2

logger = structlog.get_logger()


def load_model(
    name: str, device: str, dtype: str = "auto", revision: str | None = None
) -> ModelRunner:
    """Load `nano`, a folder, or what was fetched from the hub, to `auto`, `cpu` or a CUDA device.

    `dtype` is `auto` (what the family names on CUDA, float32 on a CPU), `float32`, `bfloat16`
    or `float16`.
    Every file is read whole once, for its digest. Raises ModelUnusable.
    """
    torch_device = device_of(device)
    files = ModelFiles.find(name, revision)
    torch_dtype = dtype_of(dtype, torch_device, files.config.cuda_dtype)
    assert files.tokenizer is not None
    model = build_meta_model(files.config)
    with translate_device_errors(files.folder, torch_device, torch_dtype):
        check = check_fit(model, tensors_of(files.shards))
        identity = copy_weights(model, files, torch_device, torch_dtype)
    for note in (*files.notes, check.note):
        if note:
            logger.info("checkpoint accepted", model=identity, note=note)
    reload = partial(reload_weights, model, files, identity)
    return ModelRunner(model, files.tokenizer, identity, reload=reload)


def build_meta_model(config: VideoXL2Config) -> VideoXL2:
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


def expected_tensors(model: VideoXL2) -> dict[str, ExpectedTensor]:
    """Return the weights that a model takes from a checkpoint, by the reference's names."""
    return {
        name: ExpectedTensor(shape=tuple(own.shape), is_float=own.is_floating_point())
        for name, own in _reference_weights(model).items()
    }


def check_fit(model: VideoXL2, found: Mapping[str, TensorEntry]) -> KeyCheck:
    """Compare the keys of a checkpoint with a model; raises ModelUnusable where they do not fit."""
    check = check_keys(expected_tensors(model), found, model.config)
    if check.problems:
        raise ModelUnusable(f"weights do not fit: {'; '.join(check.problems)}")
    return check


def load_weights(
    model: VideoXL2,
    weights: Mapping[str, Tensor],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Give a model weights that are in memory, under the reference's key names.

    Raises ModelUnusable that names the first keys that are missing, not expected, of another
    shape, or not finite.
    """
    check_fit(model, {name: _tensor_entry(weight) for name, weight in weights.items()})
    loader = WeightLoader(_weight_targets(model), device, dtype)
    for name in _reference_weights(model).keys() & weights.keys():
        weight = weights[name]
        loader.set_weight(name, weight.to(device, loader.target_dtype(weight.dtype), copy=True))
    _complete(model, loader, device)


def save_weights(model: VideoXL2, path: Path) -> None:
    """Write half-precision weights under the reference's key names."""
    weights = {name: own.contiguous() for name, own in _reference_weights(model).items()}
    save_file({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, path)


def reference_name(key: str) -> str:
    """Return the name that the reference gives to one of our weights."""
    if key.startswith("language.decoder."):
        return key.removeprefix("language.decoder.")
    if key.startswith("vision_tower."):
        return f"model.vision_tower.{key}"
    return f"model.{key}"


def reload_weights(model: VideoXL2, files: ModelFiles, identity: str, dtype: torch.dtype) -> None:
    """Read the weights again as `kind`, in place: one old and one new weight exist at a time.

    `identity` is what `snapshot.identity()` was at the first loading; the files are hashed
    again. What was made with the old weights, as a prefix, is for the caller to make again. Raises
    ModelUnusable, and changes nothing, where the files are no longer the same.
    """
    if files.identity() != identity:
        raise ModelUnusable(f"{files.folder}: changed since it was loaded as {identity}")
    copy_weights(model, files, model.device, dtype)


@contextmanager
def translate_device_errors(
    folder: Path, device: torch.device, dtype: torch.dtype
) -> Iterator[None]:
    """Turn what fails while weights are copied into ModelUnusable, one line with the folder."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelUnusable(f"{folder}: does not fit on {device} as {dtype}") from error
    except RuntimeError as error:
        raise ModelUnusable(f"{folder}: {device_unusable(device, error)}") from error
    except ModelUnusable as error:
        is_prefixed = str(error).startswith(str(folder))
        raise ModelUnusable(str(error) if is_prefixed else f"{folder}: {error}") from error


def copy_weights(
    model: VideoXL2, files: ModelFiles, device: torch.device, dtype: torch.dtype
) -> str:
    """Copy the weights of a snapshot into a model; return which model it is."""
    loader = WeightLoader(_weight_targets(model), device, dtype)
    identity = files.identity(loader.copy_shards(files.folder, files.shards))
    _complete(model, loader, device)
    return identity


def _reference_weights(model: VideoXL2) -> dict[str, Tensor]:
    own = {reference_name(key): weight for key, weight in model.state_dict().items()}
    if model.config.is_tied:
        del own[LM_HEAD]
    return own


def _weight_targets(model: VideoXL2) -> dict[str, WeightTarget]:
    own = _reference_weights(model)
    keys = {reference_name(key): key for key in model.state_dict()}
    return {name: WeightTarget(model, keys[name]) for name in own}


def _complete(model: VideoXL2, loader: WeightLoader, device: torch.device | str) -> None:
    """Check what was copied, and give a model what no checkpoint has to hold."""
    loader.complete()
    decoder = model.language.decoder
    if model.config.is_tied:
        decoder.lm_head.weight = decoder.model.embed_tokens.weight
    model.to(device)


def _tensor_entry(weight: Tensor) -> TensorEntry:
    names = {dtype: name for name, dtype in TORCH_DTYPES.items()}
    name = names.get(weight.dtype, str(weight.dtype))
    return TensorEntry(dtype=name, shape=tuple(weight.shape), nbytes=weight.nbytes)
