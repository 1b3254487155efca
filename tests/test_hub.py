"""Models on the hub: fetched once over real HTTP, checked, found again without a network."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from analyzer.models.checkpoint.manifest import MANIFEST_FILE
from kit.deploy.command import LONGWATCH, ROOT, Command
from kit.ingest.fixtures import free_port
from kit.model.checkpoints import random_model, weights_of, write_shards
from kit.model.hub_server import COMMIT, Hub, run_hub
from kit.storage.fixtures import small_disk

REPOSITORY = "BAAI/Video-XL-Tiny"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
FETCHED = ["config.json", *SHARDS, "model.safetensors.index.json", "tokenizer.json"]
SITE = """\
cameras: {dock: {url: "rtsp://10.0.0.21/sub"}}
questions: {any: {ask: "Is anything unusual happening?"}}
model:
  name: BAAI/Nobody-Fetched-It
"""


@pytest.fixture(name="hub")
def serve_hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub with a small model in two shards, and with code and a pickle beside it."""
    folder = tmp_path / "published"
    weights = weights_of(random_model(folder))
    # Longer than what is written to the disk at a time, so that going on with it shows.
    weights["model.text_mlp.0.weight"] = torch.rand(6_000_000)
    write_shards(folder, weights)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with run_hub(Hub(REPOSITORY, {**files, "modeling.py": b"x", "pytorch_model.bin": b"x"})) as hub:
        yield hub


def run(home: Path, url: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command for which the hub lies at a url, and its models in a folder."""
    environment = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_ENDPOINT": url,
        "LONGWATCH_MODEL__NAME": REPOSITORY,
    }
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        environment.pop(name, None)
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )


def fetch(home: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return run(home, url, *LONGWATCH, "model", "fetch", *(words or (REPOSITORY,)))


def nowhere() -> str:
    """Return a url at which nothing answers."""
    return f"http://127.0.0.1:{free_port()}"


def identify(home: Path, *revisions: str) -> subprocess.CompletedProcess[str]:
    """Read every file of the model in a process that can reach no hub, and print its name."""
    code = (
        "import sys; from analyzer.models.files import ModelFiles;"
        "[print(ModelFiles.find(sys.argv[1], each).identity()) for each in sys.argv[2:] or [None]]"
    )
    return run(home, nowhere(), sys.executable, "-c", code, REPOSITORY, *revisions)


def load(home: Path) -> subprocess.CompletedProcess[str]:
    """Load the model in a process that can reach no hub, and print its name."""
    code = (
        "import sys; from analyzer.models.loading import load_model;"
        "print(load_model(sys.argv[1], 'cpu').name)"
    )
    return run(home, nowhere(), sys.executable, "-c", code, REPOSITORY)


def files_of(home: Path) -> Path:
    (folder,) = (home / "hub").glob("models--*/snapshots/*")
    return folder


def failed(said: subprocess.CompletedProcess[str], told: str) -> None:
    """Assert that a command failed, with one line behind the progress bar."""
    assert said.returncode == 1
    assert said.stdout == ""
    assert told in said.stderr.splitlines()[-1]
    assert "Traceback" not in said.stderr


@pytest.mark.slow
def test_a_model_is_fetched_once_and_loaded_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    said = fetch(tmp_path, hub.url)
    folder = files_of(tmp_path)
    used = f"use it: model: {{name: {REPOSITORY}}}"
    assert said.returncode == 0, said.stderr
    assert said.stdout == f"{REPOSITORY} at {COMMIT[:12]} is complete in {folder}; {used}\n"
    assert "100%" in said.stderr
    assert sorted(hub.fetched) == FETCHED
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FETCHED, MANIFEST_FILE])

    hub.requests.clear()
    again = fetch(tmp_path, hub.url, REPOSITORY, "--revision", "v1", "--json")
    fields = json.loads(again.stdout)
    assert hub.fetched == []
    assert (fields["commit"], fields["folder"]) == (COMMIT, str(folder))
    assert sorted(fields["files"]) == FETCHED

    hub.requests.clear()
    loaded = load(tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    name = loaded.stdout.splitlines()[-1]  # behind the line about the unused key
    assert name.startswith(f"{REPOSITORY}@{COMMIT[:12]}+")
    assert identify(tmp_path, "main", "v1", COMMIT).stdout.splitlines() == 3 * [name]
    assert not hub.requests


def test_a_file_that_breaks_off_is_gone_on_with(hub: Hub, tmp_path: Path) -> None:
    (large,) = (name for name in SHARDS if len(hub.files[name]) > 20e6)
    hub.cut.add(large)
    said = fetch(tmp_path, hub.url)
    assert said.returncode == 0, said.stderr
    first, second = (line for line in hub.fetched if line.startswith(large))
    assert first == large
    assert second.startswith(f"{large} from 1")


@pytest.mark.slow
def test_a_file_with_a_wrong_digest_is_fetched_twice_and_refused(hub: Hub, tmp_path: Path) -> None:
    hub.served[SHARDS[0]] = bytes(len(hub.files[SHARDS[0]]))
    failed(fetch(tmp_path, hub.url), f"{SHARDS[0]} arrived with a wrong digest, twice: try again")
    assert hub.fetched.count(SHARDS[0]) == 2
    assert f"run `longwatch model fetch {REPOSITORY} --revision main`" in identify(tmp_path).stderr
    hub.served = {"config.json": hub.files["config.json"].replace(b"1", b"2")}
    failed(fetch(tmp_path / "other", hub.url), "config.json arrived with a wrong digest")
    hub.served.clear()
    assert fetch(tmp_path, hub.url).returncode == 0


@pytest.mark.slow
def test_a_file_that_rots_on_the_disk_is_refused_and_fetched_again(
    hub: Hub, tmp_path: Path
) -> None:
    fetch(tmp_path, hub.url)
    shard = files_of(tmp_path) / SHARDS[1]
    rotten = bytearray(shard.read_bytes())
    rotten[-1] ^= 1
    shard.resolve().write_bytes(rotten)
    said = identify(tmp_path)
    assert said.returncode != 0
    assert f"{shard}: not as it was fetched: run `longwatch model fetch" in said.stderr
    hub.requests.clear()
    assert fetch(tmp_path, hub.url).returncode == 0
    assert hub.fetched == [SHARDS[1]]
    assert identify(tmp_path).returncode == 0


@pytest.mark.slow
def test_what_cannot_be_fetched_is_one_line(hub: Hub, tmp_path: Path) -> None:
    failed(fetch(tmp_path, hub.url, "BAAI/Nothing"), "BAAI/Nothing: the hub has no such model")
    failed(fetch(tmp_path, hub.url, "a/b/c"), "a/b/c: write it as OWNER/NAME")
    wrong = fetch(tmp_path, hub.url, REPOSITORY, "--revision", "v9")
    failed(wrong, f"{REPOSITORY}: has no revision v9")
    away = nowhere()
    failed(fetch(tmp_path, away), f"{REPOSITORY}: {away} cannot be used ([Errno 111] Connection")
    with small_disk(tmp_path / "disk", "4m") as disk:
        full = fetch(disk, hub.url)
    failed(full, f"MB to download, and {disk}/hub has room for 4 MB: free some, or set HF_HOME")
    assert hub.fetched == []


def test_a_branch_that_moves_while_it_comes_is_told(hub: Hub, tmp_path: Path) -> None:
    hub.moves = True
    failed(
        fetch(tmp_path, hub.url), f"{REPOSITORY}: main moved during the download: complete files"
    )


def test_a_published_model_of_another_kind_is_told_so(hub: Hub, tmp_path: Path) -> None:
    hub.files["config.json"] = b'{"model_type": "llama"}'
    failed(fetch(tmp_path, hub.url), "config.json: model_type is 'llama', not qwen2")


@pytest.mark.parametrize("words", ["validate", "run", "backtest"])
def test_a_model_that_is_not_here_ends_a_command_before_it_begins(
    tmp_path: Path, command: Command, words: str
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(SITE)
    result = command(words, "-c", site, *([site] if words == "backtest" else []))
    expected = "no folder here, and revision main was not fetched"
    fetching = "run `longwatch model fetch BAAI/Nobody-Fetched-It --revision main`"
    assert (result.returncode, result.stdout) == (2, "")
    assert (
        result.stderr == f"{site}:4: model.name: BAAI/Nobody-Fetched-It: {expected}: {fetching}\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["site.yaml"]


@pytest.mark.slow
def test_settings_are_checked_against_what_was_fetched(hub: Hub, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(SITE)
    words = (*LONGWATCH, "validate", "-c", str(site))
    fetch(tmp_path, hub.url)
    said = run(tmp_path, nowhere(), *words)
    assert said.returncode == 0, said.stderr
    (files_of(tmp_path) / "tokenizer.json").unlink()
    said = run(tmp_path, nowhere(), *words)
    assert said.returncode == 2
    assert said.stderr.count("\n") == 1
    assert "LONGWATCH_MODEL__NAME: model.name: " in said.stderr
    assert "no tokenizer.json" in said.stderr
