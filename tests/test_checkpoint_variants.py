"""Checkpoints as others publish them: what is accepted with a line, and what is refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

from analyzer.errors import ModelUnusable
from analyzer.models.loading import load_model, translate_device_errors
from analyzer.models.runner import ModelRunner
from analyzer.nano.workshop.prefill import encode_and_prefill
from kit.model.checkpoints import TOWER, random_model, weights_of, write_json, write_shards
from kit.model.small_model import window

VISION = "model.vision_tower.vision_tower.vision_model"
KEPT_LAYERS = int(str(TOWER["num_hidden_layers"])) - 1
Weights = dict[str, Tensor]


def write(
    folder: Path,
    weights: Callable[[Weights], Weights] = lambda weights: weights,
    *,
    config: Callable[[dict[str, Any]], dict[str, Any]] = lambda fields: fields,
    **changes: Any,
) -> Path:
    """Write a checkpoint with other weights or other fields than its model has."""
    tied = {name: changes[name] for name in ("tie_word_embeddings",) if name in changes}
    write_shards(folder, weights(weights_of(random_model(folder, **tied))))
    fields = json.loads((folder / "config.json").read_bytes())
    write_json(folder / "config.json", config({**fields, **changes}))
    return folder


def without(*words: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda held: {k: v for k, v in held.items() if not any(word in k for word in words)}


def with_key(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, name: torch.zeros(4)}


def as_type(dtype: torch.dtype) -> Callable[[Weights], Weights]:
    return lambda weights: {k: v.to(dtype) if v.dim() == 2 else v for k, v in weights.items()}


def margins(runner: ModelRunner) -> list[float]:
    jpegs = [still.jpeg for still in window().stills[:8]]
    chunk, _ = encode_and_prefill(runner, jpegs, [float(n) for n in range(8)], None, [])
    return runner.margins(["Is there a fire?"], [chunk])


@pytest.fixture(name="wanted", scope="module")
def as_saved(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return margins(load_model(str(write(tmp_path_factory.mktemp("m") / "m")), "cpu"))


def accepted(folder: Path, wanted: list[float], *notes: str) -> None:
    """Assert that a folder loads, answers as before, and says what it left out in one line each."""
    with capture_logs() as log_lines:
        runner = load_model(str(folder), "cpu")
    assert margins(runner) == wanted
    told = [each["note"] for each in log_lines if each["event"] == "checkpoint accepted"]
    assert len(told) == len(notes)
    for note, each in zip(notes, told, strict=True):
        assert note in each


def refused(folder: Path, *told: str) -> str:
    with pytest.raises(ModelUnusable) as caught:
        load_model(str(folder), "cpu")
    said = str(caught.value)
    assert "\n" not in said
    for each in told:
        assert each in said
    return said


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.image_newline", "image_newline (1)"),
        ("model.vision_resampler.x.weight", "vision_resampler (1)"),
        (f"{VISION}.head.probe", "pooling head of the tower (1)"),
        (f"{VISION}.encoder.layers.{KEPT_LAYERS}.mlp.fc1.bias", "dropped last layer of the tower"),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", "rotary inv_freq (1)"),
        (f"{VISION}.embeddings.position_ids", "position_ids (1)"),
        ("model.text_mlp.0.weight", "text_mlp (1)"),
    ],
)
def test_a_key_that_the_method_never_uses_is_accepted_with_a_line(
    tmp_path: Path, wanted: list[float], name: str, kind: str
) -> None:
    accepted(write(tmp_path / "m", with_key(name)), wanted, f"1 key is not used: {kind}")


def test_a_layer_beyond_the_dropped_one_is_not_expected(tmp_path: Path) -> None:
    name = f"{VISION}.encoder.layers.{KEPT_LAYERS + 1}.mlp.fc1.bias"
    refused(write(tmp_path / "m", with_key(name)), f"1 not expected ({name})")


def test_the_norm_behind_the_dropped_layer_may_be_missing(
    tmp_path: Path, wanted: list[float]
) -> None:
    accepted(write(tmp_path / "m", without("post_layernorm")), wanted)


@pytest.mark.parametrize(
    "told",
    [{"rope_type": "default"}, {"type": "linear", "factor": 1.0}, {"type": "yarn", "factor": 4.0}],
)
def test_rope_scaling_is_ignored_with_a_line(
    tmp_path: Path, wanted: list[float], told: dict[str, Any]
) -> None:
    note = "rope_scaling is ignored, as the reference does"
    accepted(write(tmp_path / "m", rope_scaling=told), wanted, note)


def test_a_head_beside_tied_embeddings_is_ignored_with_a_line(tmp_path: Path) -> None:
    tied = write(tmp_path / "tied", without("lm_head"), tie_word_embeddings=True)
    wanted = margins(load_model(str(tied), "cpu"))
    both = write(
        tmp_path / "both",
        lambda weights: {**weights, "lm_head.weight": weights["lm_head.weight"].clone()},
        tie_word_embeddings=True,
    )
    accepted(both, wanted, "1 key is not used: lm_head of tied embeddings (1)")


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "llava_qwen"},
        {"auto_map": {"AutoConfig": "c.X"}, "prefill_config": {"chunk_size": 4}, "lists": [[3]]},
        {"quantization_config": None},
        {"mm_vision_tower": "google/siglip-so400m-patch14-384"},
    ],
)
def test_fields_that_change_nothing_are_passed_over(
    tmp_path: Path, wanted: list[float], changes: dict[str, Any]
) -> None:
    accepted(write(tmp_path / "m", **changes), wanted)


def test_a_stray_file_beside_an_index_is_passed_over(tmp_path: Path, wanted: list[float]) -> None:
    folder = write(tmp_path / "m")
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "consolidated.safetensors")
    accepted(folder, wanted)


def test_a_vision_config_that_names_its_type_alone_is_filled_from_the_towers_name() -> None:
    from test_checkpoint import published

    named = published(vision_config={"model_type": "siglip_vision_model"})
    assert named == published()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantization_config is awq"),
        (
            {"quantization_config": {"load_in_8bit": True}},
            "quantization_config is of no known kind",
        ),
        ({"compression_config": {"quant_method": "fp8"}}, "compression_config is fp8"),
    ],
)
def test_a_quantised_checkpoint_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], told: str
) -> None:
    said = refused(write(tmp_path / "m", **fields), told)
    assert said.endswith("take the one in bfloat16 or float16")


@pytest.mark.parametrize(
    ("dtype", "word"),
    [
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.float8_e5m2, "F8_E5M2"),
        (torch.int8, "I8"),
        (torch.uint8, "U8"),
        (torch.int32, "I32"),
    ],
)
def test_quantised_weights_are_refused_by_name(
    tmp_path: Path, dtype: torch.dtype, word: str
) -> None:
    folder = write(tmp_path / "m", as_type(dtype))
    refused(folder, f"quantised (lm_head.weight is {word}, ", "take the one in bfloat16 or float16")


def test_packed_weights_are_refused_by_name(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "m",
        lambda weights: {
            **{k: v for k, v in weights.items() if k != "model.layers.0.mlp.up_proj.weight"},
            "model.layers.0.mlp.up_proj.qweight": torch.zeros(8, 8, dtype=torch.int32),
            "model.layers.0.mlp.up_proj.scales": torch.zeros(8),
        },
    )
    refused(folder, "2 quantised (model.layers.0.mlp.up_proj.qweight is I32, ")


def test_every_reason_is_told_at_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", hidden_act="gelu", use_sliding_window=True)
    said = refused(folder, "hidden_act is 'gelu', not silu; use_sliding_window is True, not False")
    assert said.endswith(": this is the config of another model")
    for shard in folder.glob("*.safetensors"):
        shard.unlink()
    write(folder)
    for shard in folder.glob("*.safetensors"):
        shard.unlink()
    refused(folder, "model-00001-of-00002.safetensors: missing", "model-00002-of-00002.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number_is_named(tmp_path: Path, value: float) -> None:
    def spoil(weights: Weights) -> Weights:
        weights["model.mm_projector.2.bias"][3] = value
        weights["model.norm.weight"][0] = value
        return weights

    folder = write(tmp_path / "m", spoil)
    said = refused(
        folder, "model.mm_projector.2.bias (and 1 more) holds NaN or infinity as float32"
    )
    assert said.startswith(str(folder))


def test_a_weight_too_large_for_the_type_asked_for_is_named(tmp_path: Path) -> None:
    def enlarge(weights: Weights) -> Weights:
        weights["model.norm.weight"][0] = 1e6
        return weights

    folder = write(tmp_path / "m", enlarge)
    load_model(str(folder), "cpu", "bfloat16")
    with pytest.raises(ModelUnusable, match=r"model\.norm\.weight .* as float16: set model\.dtype"):
        load_model(str(folder), "cpu", "float16")


def test_a_shard_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    from analyzer.models.checkpoint.shards import find_shards
    from analyzer.models.checkpoint.weights import WeightLoader

    folder = write(tmp_path / "m")
    shard = find_shards(folder)[0]
    whole = (folder / shard.name).read_bytes()
    (folder / shard.name).write_bytes(whole[:-64])
    loader = WeightLoader({}, "cpu", torch.float32)
    with pytest.raises(ModelUnusable, match="truncated while it was read"):
        loader.copy_shard(folder, shard)


def test_a_device_that_fails_in_mid_load_is_one_line(tmp_path: Path) -> None:
    place, look = (
        torch.device("cuda", 1),
        "check the output of nvidia-smi, or set model.device to cpu",
    )
    for error, told in (
        (
            torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with"),
            f"cuda:1 cannot be used: unspecified launch failure: {look}",
        ),
        (
            RuntimeError("CUDA error: the launch timed out\nmore"),
            f"cuda:1 cannot be used: the launch timed out: {look}",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), "does not fit on cuda:1 as torch.float16"),
    ):
        with (
            pytest.raises(ModelUnusable) as caught,
            translate_device_errors(tmp_path, place, torch.half),
        ):
            raise error
        assert str(caught.value) == f"{tmp_path}: {told}"


def test_a_host_that_fails_in_mid_load_is_not_told_of_cards(tmp_path: Path) -> None:
    host = torch.device("cpu")
    with (
        pytest.raises(ModelUnusable) as caught,
        translate_device_errors(tmp_path, host, torch.float32),
    ):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nmore")
    expected = "cpu cannot be used: DefaultCPUAllocator: can't allocate memory"
    assert str(caught.value) == f"{tmp_path}: {expected}"
