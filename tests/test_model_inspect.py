"""`longwatch model inspect`: what would load, what not and why, without the weights."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from analyzer.errors import ModelUnusable
from analyzer.models.hub import fetch_headers
from analyzer.models.inspect import ModelInspection, inspect, inspect_folder
from analyzer.models.loading import load_model
from kit.deploy.command import LONGWATCH, Command
from kit.model.checkpoints import INDEX, random_model, weights_of, write_json, write_shards
from kit.model.hub_server import COMMIT, Hub, run_hub
from test_hub import REPOSITORY, SHARDS, nowhere, run

BIG = "model.text_mlp.0.weight"


@pytest.fixture(name="folder")
def make_folder(tmp_path: Path) -> Path:
    """A checkpoint of two shards with a key that the method never uses, 8 MB large."""
    folder = tmp_path / "published"
    weights = weights_of(random_model(folder))
    weights[BIG] = torch.rand(2_000_000)
    write_shards(folder, weights)
    return folder


@pytest.fixture(name="hub")
def serve_hub(folder: Path) -> Iterator[Hub]:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with run_hub(Hub(REPOSITORY, {**files, "modeling.py": b"x"})) as hub:
        yield hub


def over_http(home: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return run(home, url, *LONGWATCH, "model", "inspect", *(words or (REPOSITORY,)))


def change_config(folder: Path, **changes: Any) -> None:
    fields = json.loads((folder / "config.json").read_bytes())
    write_json(folder / "config.json", {**fields, **changes})


def test_a_folder_that_loads_is_told_with_what_it_has(folder: Path, command: Command) -> None:
    result = command("model", "inspect", folder, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    loaded = load_model(str(folder), "cpu").model
    assert found["loads"] is True
    assert found["parameters"] == sum(each.numel() for each in loaded.state_dict().values())
    assert found["dtypes"] == {"F32": found["parameters"] + 2_000_000}
    assert found["keys"]["used"] == len(loaded.state_dict())
    assert found["keys"]["unused"] == {"count": 1, "first": [BIG]}
    assert found["keys"]["missing"] == {"count": 0, "first": []}
    assert found["notes"] == ["1 key is not used: text_mlp (1)"]
    assert found["config"]["model_type"] == "qwen2"
    assert found["tokenizer"]["size"] > 300
    assert [len(ids) for ids in found["tokenizer"]["tokens"].values()] == [1, 1, 1, 1]
    assert (found["shards"], found["commit"], found["bytes_read"]) == (2, None, None)


def test_the_lines_say_the_same_to_a_person(folder: Path, command: Command) -> None:
    change_config(folder, hidden_act="gelu", rope_scaling={"type": "linear", "factor": 2})
    result = command("model", "inspect", folder)
    lines = result.stdout.splitlines()
    assert result.returncode == 1
    assert lines[0] == f"{folder}: would be refused"
    assert "  refused    config.json: hidden_act is 'gelu', not silu" in lines
    assert any(each.startswith("  accepted   rope_scaling is ignored") for each in lines)
    assert "  config     model_type: qwen2" in lines
    assert lines[-1].startswith("  longwatch  0.1.0")
    assert result.stderr == ""


def test_nano_would_load(command: Command) -> None:
    result = command("model", "inspect", "nano")
    assert (result.returncode, result.stdout.splitlines()[0]) == (0, "nano: would load")


def test_a_quantised_field_does_not_hide_what_is_wrong_with_the_keys(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    write_shards(folder, strange_key(weights_of(random_model(folder))))
    change_config(folder, quantization_config={"quant_method": "gptq"})
    problems = inspect(str(folder)).problems
    assert problems[0].startswith("config.json: quantization_config is gptq")
    assert any("1 not expected (stranger)" in each for each in problems)


def spoil_everything(folder: Path) -> None:
    """Another activation, quantised fields, a cut shard, a strange key and a poor tokenizer."""
    quantised = {"quant_method": "awq"}
    change_config(folder, hidden_act="gelu", quantization_config=quantised, use_sliding_window=True)
    (folder / "tokenizer.json").write_text("{}")
    shard = folder / SHARDS[1]
    shard.write_bytes(shard.read_bytes()[:-1])


def test_every_reason_is_told_at_once(folder: Path) -> None:
    spoil_everything(folder)
    problems = inspect_folder(folder, "it").problems
    for word in ("hidden_act", "use_sliding_window", "quantization_config is awq"):
        assert sum(each.startswith("config.json: ") and word in each for each in problems) == 1
    assert sum(each.startswith("tokenizer.json: cannot be read") for each in problems) == 1
    assert sum(each.startswith(f"{SHARDS[1]}: cut off or damaged") for each in problems) == 1
    assert len(problems) == 5


def strange_key(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    kept = {k: v for k, v in weights.items() if "mm_projector" not in k}
    return {**kept, "stranger": torch.zeros(1), "lm_head.weight": torch.zeros(3, 3)}


@pytest.mark.parametrize(
    "change",
    [
        strange_key,
        lambda weights: {k: v.to(torch.float8_e4m3fn) for k, v in weights.items()},
        lambda weights: {**weights, "model.image_newline": torch.zeros(4)},
        lambda weights: weights,
    ],
)
def test_an_inspection_and_a_load_agree(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    folder = tmp_path / "m"
    write_shards(folder, change(weights_of(random_model(folder))))
    found = inspect(str(folder))
    try:
        load_model(str(folder), "cpu")
        refused = None
    except ModelUnusable as error:
        refused = str(error)
    assert found.is_loadable == (refused is None)
    for each in found.problems:
        assert each.removeprefix("weights: ") in str(refused)


@pytest.mark.slow
def test_a_repository_is_inspected_over_ranges_and_nothing_is_kept(
    hub: Hub, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    said = over_http(home, hub.url, REPOSITORY, "--revision", "v1", "--json")
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    small = sum(len(hub.files[name]) for name in ("config.json", "tokenizer.json", INDEX))
    heads = sum(min(100_000, len(hub.files[name])) for name in SHARDS)
    assert found["commit"] == COMMIT
    assert found["keys"]["unused"]["count"] == 1
    assert found["bytes_read"] == hub.sent == small + heads
    assert hub.sent < 8e6 / 10
    assert sorted(hub.fetched) == sorted(["config.json", "tokenizer.json", INDEX, *SHARDS])
    assert not [path for path in home.rglob("*") if path.is_file()]


def inspect_at(hub: Hub) -> ModelInspection:
    """Inspect what a hub serves, in this process."""
    with fetch_headers(REPOSITORY, endpoint=hub.url) as heads:
        found = inspect_folder(heads.folder, REPOSITORY)
    assert not heads.folder.exists()
    return found


def test_a_server_without_ranges_is_not_read_to_the_end(hub: Hub) -> None:
    hub.serves_ranges = False
    with fetch_headers(REPOSITORY, endpoint=hub.url) as heads:
        assert inspect_folder(heads.folder, REPOSITORY).is_loadable
    assert heads.nbytes < 8e6 / 10


def test_a_head_that_is_longer_than_the_first_read_is_read_whole(tmp_path: Path) -> None:
    folder = tmp_path / "published"
    weights = weights_of(random_model(folder))
    weights |= {f"model.text_mlp.{n}.{'x' * 80}": torch.zeros(1) for n in range(2000)}
    write_shards(folder, weights, shards=1)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with run_hub(Hub(REPOSITORY, files)) as hub:
        found = inspect_at(hub)
    assert found.is_loadable
    assert found.keys is not None
    assert len(found.keys.unused) == 2000


def test_what_is_wrong_on_the_hub_is_told_by_the_files_name(hub: Hub) -> None:
    whole = dict(hub.files)
    hub.files[SHARDS[0]] = b"\xff" * 9
    assert [each.partition(" (")[0] for each in inspect_at(hub).problems] == [
        f"{SHARDS[0]}: cut off or damaged"
    ]
    del hub.files[SHARDS[0]]
    assert inspect_at(hub).problems == [f"{SHARDS[0]}: missing, and {INDEX} names it"]
    hub.files = {**whole, INDEX: b"[]"}
    assert "cannot be read" in inspect_at(hub).problems[0]
    hub.files = {"config.json": whole["config.json"], "pytorch_model.bin": b"x"}
    without_tokenizer, pickle = inspect_at(hub).problems
    assert without_tokenizer.startswith(f"{REPOSITORY}: no tokenizer.json, and no vocab.json")
    assert pickle.startswith("pytorch_model.bin: a pickle, which can run any code")


@pytest.mark.slow
def test_a_repository_that_cannot_be_inspected_is_one_line(hub: Hub, tmp_path: Path) -> None:
    away = nowhere()
    for url, words, told in (
        (hub.url, ("BAAI/Nothing",), "BAAI/Nothing: the hub has no such model"),
        (hub.url, (REPOSITORY, "--revision", "v9"), f"{REPOSITORY}: has no revision v9"),
        (away, (REPOSITORY,), f"{REPOSITORY}: {away} cannot be used ([Errno 111] Connection"),
        (hub.url, ("no/such/folder",), "no config.json"),
    ):
        said = over_http(tmp_path, url, *words)
        assert (said.returncode, said.stdout, said.stderr.count("\n")) == (1, "", 1)
        assert told in said.stderr
