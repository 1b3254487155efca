"""Load and save the weights of a model under the key names of its reference."""

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
from analyzer.models.checkpoint.keys import ExpectedTensor, KeyCheck, check_keys
from analyzer.models.checkpoint.shards import TensorEntry, tensors_of
from analyzer.models.checkpoint.weights import TORCH_DTYPES, WeightLoader, WeightTarget
from analyzer.models.families import FAMILY
from analyzer.models.files import ModelFiles
from analyzer.models.runner import ModelRunner
from analyzer.models.video_model import VideoModel

logger = structlog.get_logger()


def load_model(
    name: str, device: str, dtype: str = "auto", revision: str | None = None
) -> ModelRunner:
    """Load `nano`, a folder, or a fetched model to `auto`, `cpu` or a CUDA device.

    `dtype` is `float32`, `bfloat16`, `float16`, or `auto`: the family's choice on CUDA, float32
    on a CPU. Every file is read once, for its digest. Raises ModelUnusable.
    """
    torch_device = device_of(device)
    files = ModelFiles.find(name, revision)
    torch_dtype = dtype_of(dtype, torch_device, files.config.cuda_dtype)
    if files.tokenizer is None:
        raise ModelUnusable("install tokenizers: no model runs without it")
    model = FAMILY.build_meta_model(files.config)
    with translate_device_errors(files.folder, torch_device, torch_dtype):
        check = check_fit(model, tensors_of(files.shards))
        identity = copy_weights(model, files, torch_device, torch_dtype)
    for note in (*files.notes, check.note):
        if note:
            logger.info("checkpoint accepted", model=identity, note=note)
    reload = partial(reload_weights, model, files, identity)
    return ModelRunner(model, files.tokenizer, identity, reload=reload)


def compare_keys(model: VideoModel, found: Mapping[str, TensorEntry]) -> KeyCheck:
    """Compare the keys of a checkpoint with the weights of a model."""
    expected = {
        name: ExpectedTensor(shape=tuple(own.shape), is_float=own.is_floating_point())
        for name, own in _reference_weights(model).items()
    }
    return check_keys(expected, found, model.unused_kind, model.is_optional)


def check_fit(model: VideoModel, found: Mapping[str, TensorEntry]) -> KeyCheck:
    """Compare the keys of a checkpoint with a model; raises ModelUnusable if they do not fit."""
    check = compare_keys(model, found)
    if check.problems:
        raise ModelUnusable(f"weights do not fit: {'; '.join(check.problems)}")
    return check


def load_weights(
    model: VideoModel,
    weights: Mapping[str, Tensor],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Copy weights in memory, under the reference's key names, into a model.

    Raises ModelUnusable with the first keys that are missing, unexpected, of another shape, or
    not finite.
    """
    check_fit(model, {name: _tensor_entry(weight) for name, weight in weights.items()})
    loader = WeightLoader(_weight_targets(model), device, dtype)
    for name in _reference_weights(model).keys() & weights.keys():
        weight = weights[name]
        loader.set_weight(name, weight.to(device, loader.target_dtype(weight.dtype), copy=True))
    _complete(model, loader, device)


def save_weights(model: VideoModel, path: Path) -> None:
    """Write half-precision weights under the reference's key names."""
    weights = {name: own.contiguous() for name, own in _reference_weights(model).items()}
    save_file({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, path)


def reload_weights(model: VideoModel, files: ModelFiles, identity: str, dtype: torch.dtype) -> None:
    """Read the weights again as `dtype`, in place: one old and one new weight exist at a time.

    `identity` is `files.identity()` at the first loading; the files are hashed again. The caller
    recomputes what depends on the old weights, such as the prefix. Raises ModelUnusable, and
    changes nothing, if the files differ.
    """
    if files.identity() != identity:
        raise ModelUnusable(f"{files.folder}: changed since it was loaded as {identity}")
    copy_weights(model, files, model.device, dtype)


@contextmanager
def translate_device_errors(
    folder: Path, device: torch.device, dtype: torch.dtype
) -> Iterator[None]:
    """Turn failures while weights are copied into ModelUnusable, one line with the folder."""
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
    model: VideoModel, files: ModelFiles, device: torch.device, dtype: torch.dtype
) -> str:
    """Copy the weights in files into a model; return the identity of the files."""
    loader = WeightLoader(_weight_targets(model), device, dtype)
    identity = files.identity(loader.copy_shards(files.folder, files.shards))
    _complete(model, loader, device)
    return identity


def _reference_weights(model: VideoModel) -> dict[str, Tensor]:
    own = {model.reference_name(key): weight for key, weight in model.state_dict().items()}
    return {name: weight for name, weight in own.items() if not model.unused_kind(name)}


def _weight_targets(model: VideoModel) -> dict[str, WeightTarget]:
    own = _reference_weights(model)
    keys = {model.reference_name(key): key for key in model.state_dict()}
    return {name: WeightTarget(model, keys[name]) for name in own}


def _complete(model: VideoModel, loader: WeightLoader, device: torch.device | str) -> None:
    """Check the copied weights, and add those that a checkpoint may lack."""
    loader.complete()
    model.tie_weights()
    model.to(device)


def _tensor_entry(weight: Tensor) -> TensorEntry:
    names = {dtype: name for name, dtype in TORCH_DTYPES.items()}
    name = names.get(weight.dtype, str(weight.dtype))
    return TensorEntry(dtype=name, shape=tuple(weight.shape), nbytes=weight.nbytes)
