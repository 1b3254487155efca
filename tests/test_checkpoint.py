"""Checkpoints on disk: what is loaded is what was saved, and what does not fit is refused."""

import json
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import Qwen2Tokenizer

from analyzer.errors import ModelUnusable
from analyzer.models.checkpoint.manifest import MANIFEST_FILE, Manifest, digests_of
from analyzer.models.files import NANO_FOLDER, ModelFiles
from analyzer.models.loading import load_model
from analyzer.models.runner import ModelRunner
from analyzer.models.tokenizer import read_tokenizer
from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.models.videoxl2.model import build_meta_model
from analyzer.nano.workshop.prefill import encode_and_prefill
from kit.model.checkpoints import (
    INDEX,
    PUBLISHED,
    TOWER,
    random_model,
    small_config,
    tokenizer,
    weights_of,
    write_json,
    write_model,
    write_shards,
)
from kit.model.small_model import small_runner, window
from kit.model.videoxl2 import videoxl2_of

ASKS = ["Is there a fire?", "Does anybody fall?"]


@pytest.fixture(name="folder")
def make_folder(tmp_path: Path) -> Path:
    """A whole checkpoint in the published layout, of two shards."""
    write_model(tmp_path / "model")
    return tmp_path / "model"


def margins(runner: ModelRunner) -> list[float]:
    """Return what a speaker answers about a window, to the last bit."""
    jpegs = [still.jpeg for still in window().stills[:8]]
    chunk, _ = encode_and_prefill(runner, jpegs, [float(n) for n in range(8)], None, [])
    return runner.margins(ASKS, [chunk])


def refused(folder: Path, told: str) -> str:
    """Return why a folder is refused, which must hold these words and one line only."""
    with pytest.raises(ModelUnusable, match=told) as caught:
        load_model(str(folder), "cpu")
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def change_shard(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """Change the first shard of a checkpoint."""
    shard = folder / "model-00001-of-00002.safetensors"
    weights = load_file(shard)
    change(weights)
    save_file(weights, shard)
    return shard


# What is loaded is what was saved.


def test_a_published_checkpoint_answers_as_the_model_that_was_saved(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    loaded = load_model(str(tmp_path / "model"), "cpu")
    saved = ModelRunner(model, tokenizer(), "saved")
    assert margins(loaded) == margins(saved)
    for one, other in zip(buffers(loaded), buffers(saved), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
        assert one[1].dtype == other[1].dtype


def buffers(runner: ModelRunner) -> list[tuple[str, torch.Tensor]]:
    """Return what a model holds beside its weights: frequencies, positions, statistics."""
    return sorted(runner.model.named_buffers())


def test_a_tied_model_with_statistics_answers_as_the_one_that_was_saved(tmp_path: Path) -> None:
    saved = small_runner()
    for name, buffer in saved.model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    videoxl2_of(saved).config.write(tmp_path / "config.json")
    saved.tokenizer.save(str(tmp_path / "tokenizer.json"))
    weights = weights_of(videoxl2_of(saved))
    del weights["lm_head.weight"]
    write_shards(tmp_path, weights, shards=3)
    loaded = load_model(str(tmp_path), "cpu")
    assert margins(loaded) == margins(saved)
    decoder = videoxl2_of(loaded).language.decoder
    assert decoder.lm_head.weight is decoder.model.embed_tokens.weight
    assert any("running_mean" in name for name, _ in buffers(loaded))
    for one, other in zip(buffers(loaded), buffers(saved), strict=True):
        assert torch.equal(one[1], other[1]), one[0]


def test_weights_take_the_type_asked_for_and_counters_keep_theirs(folder: Path) -> None:
    half = load_model(str(folder), "cpu", "bfloat16")
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
    assert videoxl2_of(half).language.decoder.model.rotary_emb.inv_freq.dtype == torch.float32
    exact = margins(load_model(str(folder), "cpu", "auto"))
    assert margins(half) == pytest.approx(exact, abs=0.1)
    counters = [
        buffer
        for name, buffer in buffers(load_model("nano", "cpu", "bfloat16"))
        if name.endswith("num_batches_tracked")
    ]
    assert counters
    assert {counter.dtype for counter in counters} == {torch.int64}


def test_a_single_file_of_weights_needs_no_index(folder: Path) -> None:
    sharded = margins(load_model(str(folder), "cpu"))
    whole = {k: v for shard in folder.glob("*.safetensors") for k, v in load_file(shard).items()}
    for file in [*folder.glob("*.safetensors"), folder / INDEX]:
        file.unlink()
    save_file(whole, folder / "weights.safetensors")
    assert margins(load_model(str(folder), "cpu")) == sharded


def test_the_unused_module_of_the_reference_is_tolerated(folder: Path) -> None:
    before = margins(load_model(str(folder), "cpu"))
    change_shard(folder, lambda w: w.update({"model.text_mlp.0.weight": torch.zeros(4, 4)}))
    assert margins(load_model(str(folder), "cpu")) == before


def test_the_published_shapes_are_the_references() -> None:
    model = build_meta_model(published())
    shapes = {name: tuple(weight.shape) for name, weight in weights_of(model).items()}
    tower = "model.vision_tower.vision_tower.vision_model"
    told = {
        "lm_head.weight": (152064, 3584),
        "model.embed_tokens.weight": (152064, 3584),
        "model.layers.27.self_attn.k_proj.weight": (512, 3584),
        "model.layers.27.self_attn.k_proj.bias": (512,),
        "model.layers.0.mlp.down_proj.weight": (3584, 18944),
        "model.mm_projector.0.weight": (3584, 1152),
        "model.mm_projector.2.bias": (3584,),
        "model.sae.temporal_encoding": (4, 1152),
        "model.sae.encoder.3.proj_out.weight": (1152, 1152, 1, 1, 1),
        "model.sae.encoder.4.qkv.weight": (3456, 1152, 1),
        "model.sae.encoder.1.relative_position_k.embeddings_table": (129, 1152),
        "model.sae.encoder.5.conv.weight": (1152, 1152, 3, 3, 3),
        f"{tower}.embeddings.patch_embedding.weight": (1152, 3, 14, 14),
        f"{tower}.embeddings.position_embedding.weight": (729, 1152),
        f"{tower}.encoder.layers.25.mlp.fc1.weight": (4304, 1152),
        f"{tower}.post_layernorm.weight": (1152,),
    }
    assert {name: shapes.get(name) for name in told} == told
    assert not [name for name in shapes if "layers.26" in name and tower in name]
    assert not [name for name in shapes if ".head." in name or "rotary" in name]
    assert 8.0e9 < sum(weight.numel() for weight in model.parameters()) < 8.2e9
    assert model.config.tokens_per_group == 144


def published(**changes: Any) -> VideoXL2Config:
    """Return what is read from a configuration with the 8B model's fields."""
    with TemporaryDirectory() as folder:
        write_json(Path(folder) / "config.json", {**PUBLISHED, **changes})
        return VideoXL2Config.read(Path(folder) / "config.json")


# What does not fit is refused, with the file and what is wrong with it.


def test_keys_that_are_missing_or_not_expected_are_named_and_counted(folder: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        for key in [key for key in weights if key.startswith("model.sae.encoder.2")]:
            del weights[key]
        weights.update({f"stranger.{n}": torch.zeros(1) for n in range(7)})

    shard = folder / "model-00001-of-00002.safetensors"
    gone = [key for key in load_file(shard) if key.startswith("model.sae.encoder.2")]
    change_shard(folder, change)
    said = refused(folder, rf"{len(gone)} missing \({gone[0]}.*; 7 not expected \(stranger\.0, ")
    assert said.endswith("stranger.4, ...)")


def test_a_missing_bias_alone_is_refused(folder: Path) -> None:
    key = "model.mm_projector.2.bias"
    for shard in folder.glob("*.safetensors"):
        weights = load_file(shard)
        weights.pop(key, None)
        save_file(weights, shard)
    refused(folder, rf"1 missing \({key}\)$")


def test_another_shape_is_named_with_both(folder: Path) -> None:
    write_json(folder / "config.json", small_config(intermediate_size=130))
    refused(folder, r"mlp\.\w+_proj\.weight is \[\d+, \d+\], the configuration says \[\d+, \d+\]")


def test_whole_numbers_are_no_weights(folder: Path) -> None:
    name = next(iter(load_file(folder / "model-00001-of-00002.safetensors")))
    change_shard(folder, lambda weights: weights.update({name: weights[name].to(torch.int8)}))
    refused(folder, rf"1 quantised \({name} is I8\): quantised weights are not supported")


def test_a_key_in_two_shards_is_refused(folder: Path) -> None:
    other = load_file(folder / "model-00002-of-00002.safetensors")
    key = sorted(other)[0]
    change_shard(folder, lambda weights: weights.update({key: other[key]}))
    refused(folder, rf"model-00002-of-00002\.safetensors: holds {key}, and so does model-00001")


def test_a_shard_that_is_not_there_is_named(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(folder, r"model-00002-of-00002\.safetensors: missing, and .*index\.json names it")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_shard_that_is_cut_off_is_named(folder: Path, kept: int) -> None:
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:kept])
    refused(folder, r"model-00002-of-00002\.safetensors: cut off or damaged")


@pytest.mark.parametrize("name", ["../{0}", "{1}/{0}", "./{0}", "..", "evil.bin"])
def test_an_index_that_leads_out_of_the_folder_is_refused(
    folder: Path, tmp_path: Path, name: str
) -> None:
    shard = "model-00002-of-00002.safetensors"
    shutil.move(folder / shard, tmp_path / shard)
    index = json.loads((folder / INDEX).read_bytes())
    where = index["weight_map"]
    changed = {k: name.format(shard, tmp_path) if v == shard else v for k, v in where.items()}
    write_json(folder / INDEX, {"weight_map": changed})
    refused(folder, r"index\.json: .* is not the name of a safetensors file beside it")


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": 3}', "{"])
def test_an_index_that_cannot_be_read_is_named(folder: Path, index: str) -> None:
    (folder / INDEX).write_text(index)
    refused(folder, r"index\.json: cannot be read|no \*\.safetensors")


def test_shards_without_an_index_are_refused(folder: Path) -> None:
    (folder / INDEX).unlink()
    refused(folder, r"index\.json: missing: it says how 2 shards belong together")


def test_a_pickle_is_never_loaded(folder: Path) -> None:
    for file in [*folder.glob("*.safetensors"), folder / INDEX]:
        file.unlink()
    refused(folder, r"no \*\.safetensors in it")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    refused(folder, r"pytorch_model\.bin: a pickle, which can run any code, is never loaded")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "llama"}, "model_type is 'llama', not qwen2 or llava_qwen"),
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear', not mlp2x_gelu"),
        ({"mm_projector_type": None}, "mm_projector_type is None, not mlp2x_gelu"),
        ({"mm_spatial_pool_mode": "max"}, "mm_spatial_pool_mode is 'max', not average"),
        ({"mm_spatial_pool_stride": 0}, "mm_spatial_pool_stride is 0, not a number"),
        ({"mm_hidden_size": 1024}, "mm_hidden_size is 1024, the tower's width is 1152"),
        ({"mm_vision_tower": "openai/clip-vit-large"}, "mm_vision_tower is 'clip-vit-large'"),
        ({"mm_vision_tower": None}, "mm_vision_tower is 'None', not siglip"),
        ({"vision_config": {**TOWER, "patch_size": None}}, "vision_config.patch_size is None"),
        ({"vision_config": {**TOWER, "hidden_size": 72}}, "vision_config.hidden_size is 72"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters only rope_type `default`"),
        ({"rope_theta": None}, "rope_theta is None, not a number above 0"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', not silu"),
        ({"hidden_size": "3584"}, "hidden_size is '3584', not a number from 1 on"),
        ({"num_attention_heads": 27}, "num_attention_heads does not divide hidden_size"),
        ({"num_key_value_heads": 5}, "num_key_value_heads does not divide num_attention"),
    ],
)
def test_the_config_of_another_model_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelUnusable) as caught:
        published(**changes)
    assert f"config.json: {told}" in str(caught.value)
    assert str(caught.value).endswith(": this is the config of another model")


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"tower": {}}', '{"tower": {}, "x": 1}'])
def test_a_config_that_cannot_be_read_is_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, r"config\.json: ")


def test_newer_files_hold_rope_in_a_field_of_its_own() -> None:
    told = {"rope_theta": 5e5, "rope_type": "default"}
    assert published(rope_theta=None, rope_parameters=told).language["rope_parameters"] == told


@pytest.mark.parametrize(("device", "told"), [("cuda:99", "no cuda:99 here")])
def test_a_device_that_is_not_there_is_named(device: str, told: str) -> None:
    with pytest.raises(ModelUnusable, match=told):
        load_model("nano", device)


# The tokenizer.


def edit_tokenizer(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads((folder / "tokenizer.json").read_bytes())
    change(fields)
    write_json(folder / "tokenizer.json", fields)


def without(word: str) -> Callable[[dict[str, Any]], None]:
    def change(fields: dict[str, Any]) -> None:
        fields["added_tokens"] = [
            each for each in fields["added_tokens"] if each["content"] != word
        ]
        fields["model"]["vocab"].pop(word, None)

    return change


@pytest.mark.parametrize("word", ["<|im_start|>", "<|im_end|>"])
def test_a_tokenizer_without_the_special_tokens_is_refused(folder: Path, word: str) -> None:
    edit_tokenizer(folder, without(word))
    said = refused(folder, r"tokenizer\.json: .* must each be one token")
    assert word in said


def test_a_tokenizer_that_does_not_tell_yes_from_no_is_refused(folder: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["normalizer"] = {"type": "Replace", "pattern": {"String": "No"}, "content": "Yes"}

    edit_tokenizer(folder, change)
    refused(folder, r"tokenizer\.json: Yes and No must begin with different tokens")


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    model = random_model(tmp_path / "model", vocab_size=100)
    write_shards(tmp_path / "model", weights_of(model))
    refused(tmp_path / "model", r"tokenizer\.json: token \d+ is beyond the 100 that the model")


def test_a_tokenizer_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    refused(folder, r"tokenizer\.json: cannot be read")
    (folder / "tokenizer.json").unlink()
    refused(folder, r"no tokenizer\.json, and no vocab\.json and no merges\.txt either")


def in_parts(folder: Path, added: str) -> Tokenizer:
    """Write a small Qwen2 tokenizer as its training saves it, and return what it is made of."""
    fields = json.loads(tokenizer().to_str())["model"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {word: i for word, i in fields["vocab"].items() if word not in special}
    vocab = {word: n for n, word in enumerate(sorted(vocab, key=lambda w: vocab[w]))}
    ids = {word: len(vocab) + n for n, word in enumerate(special)}
    write_json(folder / "vocab.json", vocab)
    merges = [" ".join(pair) for pair in fields["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    if added == "tokenizer_config.json":
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        told = {i: {"content": word, "special": True, **flags} for word, i in ids.items()}
        write_json(folder / added, {"added_tokens_decoder": told})
    else:
        write_json(folder / added, ids)
    known: Tokenizer = Qwen2Tokenizer.from_pretrained(folder).backend_tokenizer
    return known


@pytest.mark.parametrize("added", ["tokenizer_config.json", "added_tokens.json"])
def test_a_tokenizer_in_parts_is_the_one_that_transformers_makes(
    tmp_path: Path, added: str
) -> None:
    known = in_parts(tmp_path, added)
    words = known.pre_tokenizer.pre_tokenize_str
    ours = read_tokenizer(tmp_path, 768)
    for text in (
        "<|im_start|>user\nTime 12.5s:Is there a fire?<|im_end|>\n<|im_start|>assistant\n",
        "O'Toole, 12:30;  don't   wait\r\n\r\n  for Ünïcode (e\u0301) — or 日本語.\t<|endoftext|> ",
    ):
        assert ours.encode(text).ids == known.encode(text, add_special_tokens=False).ids
        assert ours.pre_tokenizer.pre_tokenize_str(text) == words(text)
        assert ours.decode(ours.encode(text).ids, False) == unicodedata.normalize("NFC", text)


def test_a_tokenizer_in_parts_without_the_special_tokens_is_refused(tmp_path: Path) -> None:
    in_parts(tmp_path, "added_tokens.json")
    (tmp_path / "added_tokens.json").unlink()
    with pytest.raises(ModelUnusable, match=r"vocab\.json: <\|im_start\|> and <\|im_end\|> must"):
        read_tokenizer(tmp_path, 768)
    write_json(tmp_path / "added_tokens.json", {"<|im_start|>": 9000})
    with pytest.raises(ModelUnusable, match=r"vocab\.json: leaves no id 9000 for <\|im_start\|>"):
        read_tokenizer(tmp_path, 768)


# Which model it is.


def test_the_name_changes_with_any_byte_of_any_file(folder: Path) -> None:
    name = ModelFiles.open(folder).identity()
    assert name.partition("@")[0] == "model"
    assert len(name.partition("@")[2]) == 12
    names = {name}
    for file in ModelFiles.open(folder).files:
        path = folder / file
        kept = path.read_bytes()
        # A space behind the JSON, or the last bit of the last weight.
        path.write_bytes(kept + b" " if path.suffix == ".json" else kept[:-1] + b"\x01")
        names.add(ModelFiles.open(folder).identity())
        path.write_bytes(kept)
    assert len(names) == 6
    assert load_model(str(folder), "cpu").name == name


def test_a_file_that_is_not_as_it_was_fetched_is_refused(folder: Path) -> None:
    digests = digests_of(folder, ModelFiles.open(folder).files)
    Manifest(repository="a/b", commit="c" * 40, files=digests).write(folder)
    name = load_model(str(folder), "cpu").name
    assert name.startswith(f"a/b@{'c' * 12}+")
    change_shard(folder, lambda weights: next(iter(weights.values())).add_(1))
    said = refused(folder, r"model-00001-of-00002\.safetensors: not as it was fetched")
    assert said.endswith(f"run `longwatch model fetch a/b --revision {'c' * 40}` again")


def test_a_manifest_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / MANIFEST_FILE).write_text("{}")
    refused(folder, rf"{MANIFEST_FILE}: cannot be read")


def test_a_folder_has_no_revision() -> None:
    with pytest.raises(ModelUnusable, match="nano: is a folder: a revision is for a model on the"):
        ModelFiles.find("nano", "main")


# What it costs.


def test_looking_at_a_models_files_loads_no_torch() -> None:
    code = (
        "import sys; from deploy.checks.model import model_problems;"
        "from analyzer.models.files import ModelFiles; ModelFiles.find('nano');"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=NANO_FOLDER.parent.parent)


PEAK = """
import sys
from pathlib import Path
from analyzer.models.loading import load_model

def told(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

load_model("nano", "cpu")
for dtype in "bfloat16", "float32":
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    before = told("VmRSS")
    speaker = load_model(sys.argv[1], "cpu", dtype)
    print(told("VmHWM") - before)
    del speaker
"""


@pytest.mark.slow
def test_loading_takes_the_model_and_one_tensor(tmp_path: Path) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6}
    write_json(tmp_path / "config.json", small_config(**sizes))
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    model = build_meta_model(VideoXL2Config.read(tmp_path / "config.json"))
    weights = {name: torch.zeros(each.shape) for name, each in weights_of(model).items()}
    write_shards(tmp_path, weights)
    size = sum(weight.nbytes for weight in weights.values())
    largest = max(weight.nbytes for weight in weights.values())
    assert size > 380e6
    command = [sys.executable, "-c", PEAK, str(tmp_path)]
    said = subprocess.check_output(command, text=True, cwd=NANO_FOLDER.parent.parent)
    for peak, held in zip(map(int, said.split()), (size / 2, size), strict=True):
        print(f"{size / 1e6:.0f} MB on disk, {held / 1e6:.0f} held, {peak / 1e6:.0f} at most")
        assert peak < held + largest + 30e6
