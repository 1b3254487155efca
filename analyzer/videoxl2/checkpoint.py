"""From files to a model and back, under the key names that the reference publishes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import structlog
import torch
from safetensors.torch import save_file
from torch import Tensor

from analyzer.errors import ModelUnusable
from analyzer.machine import kind_of, place_of, unusable
from analyzer.videoxl2.config import VideoXL2Config
from analyzer.videoxl2.keys import LM_HEAD, KeyCheck, WantedTensor, check_keys
from analyzer.videoxl2.model import VideoXL2
from analyzer.videoxl2.shards import TensorEntry, tensors_of
from analyzer.videoxl2.snapshot import Snapshot
from analyzer.videoxl2.speaker import Speaker
from analyzer.videoxl2.weights import DTYPES, Loader, Slot

logger = structlog.get_logger()


def load_model(name: str, device: str, dtype: str = "auto", revision: str | None = None) -> Speaker:
    """Load `nano`, a folder, or what was fetched from the hub, to `auto`, `cpu` or a CUDA device.

    `dtype` is `auto` (what the family names on CUDA, float32 on a CPU), `float32`, `bfloat16`
    or `float16`.
    Every file is read whole once, for its digest. Raises ModelUnusable.
    """
    place = place_of(device)
    snapshot = Snapshot.find(name, revision)
    kind = kind_of(dtype, place, snapshot.config.on_cuda)
    model = blank(snapshot.config)
    with device_failures(snapshot.folder, place, kind):
        check = fitting(model, tensors_of(snapshot.shards))
        identity = fill(model, snapshot, place, kind)
    for note in (*snapshot.notes, check.note):
        if note:
            logger.info("checkpoint accepted", model=identity, note=note)
    reload = partial(reload_as, model, snapshot, identity)
    return Speaker(model, snapshot.tokenizer, identity, reload=reload)


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


def wanted_tensors(model: VideoXL2) -> dict[str, WantedTensor]:
    """Return the weights that a model takes from a checkpoint, by the reference's names."""
    return {
        name: WantedTensor(shape=tuple(own.shape), is_float=own.is_floating_point())
        for name, own in _own(model).items()
    }


def fitting(model: VideoXL2, found: Mapping[str, TensorEntry]) -> KeyCheck:
    """Compare the keys of a checkpoint with a model; raises ModelUnusable where they do not fit."""
    check = check_keys(wanted_tensors(model), found, model.config)
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
    fitting(model, {name: _entry(weight) for name, weight in weights.items()})
    loader = Loader(_slots(model), device, dtype)
    for name in _own(model).keys() & weights.keys():
        weight = weights[name]
        loader.fill(name, weight.to(device, loader.kept_as(weight.dtype), copy=True))
    _finish(model, loader, device)


def save_weights(model: VideoXL2, path: Path) -> None:
    """Write half-precision weights under the reference's key names."""
    weights = {name: own.contiguous() for name, own in _own(model).items()}
    save_file({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, path)


def reference_name(key: str) -> str:
    """Return the name that the reference gives to one of our weights."""
    if key.startswith("language.decoder."):
        return key.removeprefix("language.decoder.")
    if key.startswith("vision_tower."):
        return f"model.vision_tower.{key}"
    return f"model.{key}"


def reload_as(model: VideoXL2, snapshot: Snapshot, identity: str, kind: torch.dtype) -> None:
    """Read the weights again as `kind`, in place: one old and one new weight exist at a time.

    `identity` is what `snapshot.identity()` was at the first loading; the files are hashed
    again. What was made with the old weights, as a prefix, is for the caller to make again. Raises
    ModelUnusable, and changes nothing, where the files are no longer the same.
    """
    if snapshot.identity() != identity:
        raise ModelUnusable(f"{snapshot.folder}: changed since it was loaded as {identity}")
    fill(model, snapshot, model.device, kind)


@contextmanager
def device_failures(folder: Path, place: torch.device, kind: torch.dtype) -> Iterator[None]:
    """Turn what fails while weights are copied into ModelUnusable, one line with the folder."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelUnusable(f"{folder}: does not fit on {place} as {kind}") from error
    except RuntimeError as error:
        raise ModelUnusable(f"{folder}: {unusable(place, error)}") from error
    except ModelUnusable as error:
        here = str(error).startswith(str(folder))
        raise ModelUnusable(str(error) if here else f"{folder}: {error}") from error


def fill(model: VideoXL2, snapshot: Snapshot, place: torch.device, kind: torch.dtype) -> str:
    """Copy the weights of a snapshot into a model; return which model it is."""
    loader = Loader(_slots(model), place, kind)
    identity = snapshot.identity(loader.copy_all(snapshot.folder, snapshot.shards))
    _finish(model, loader, place)
    return identity


def _own(model: VideoXL2) -> dict[str, Tensor]:
    own = {reference_name(key): weight for key, weight in model.state_dict().items()}
    if model.config.is_tied:
        del own[LM_HEAD]
    return own


def _slots(model: VideoXL2) -> dict[str, Slot]:
    own = _own(model)
    keys = {reference_name(key): key for key in model.state_dict()}
    return {name: Slot(model, keys[name]) for name in own}


def _finish(model: VideoXL2, loader: Loader, device: torch.device | str) -> None:
    """Check what was copied, and give a model what no checkpoint has to hold."""
    loader.finish()
    decoder = model.language.decoder
    if model.config.is_tied:
        decoder.lm_head.weight = decoder.model.embed_tokens.weight
    model.to(device)


def _entry(weight: Tensor) -> TensorEntry:
    words = {dtype: word for word, dtype in DTYPES.items()}
    word = words.get(weight.dtype, str(weight.dtype))
    return TensorEntry(dtype=word, shape=tuple(weight.shape), nbytes=weight.nbytes)
