"""The wheel contains what runs, and nothing of the workshop that makes nano."""

import ast
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec

import pytest

from kit.deploy.command import ROOT

WORKSHOP = "analyzer.nano.workshop"


@pytest.fixture(scope="module", name="wheel")
def built_wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    if find_spec("hatchling") is None:
        if os.environ.get("CI"):
            pytest.fail("hatchling is not installed")
        pytest.skip("hatchling is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_ships_every_tracked_file_but_the_workshop(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    packages = ("ingest", "analyzer", "alerts", "storage", "deploy")
    listed = subprocess.check_output(["git", "ls-files", *packages], cwd=ROOT, text=True)
    workshop = WORKSHOP.replace(".", "/") + "/"
    expected = {name for name in listed.splitlines() if not name.startswith(workshop)}
    assert expected <= shipped
    assert not [name for name in shipped if name.startswith(workshop)]


@pytest.mark.parametrize(
    "name",
    [
        "analyzer/nano/weights.safetensors",
        "analyzer/nano/tokenizer.json",
        "analyzer/nano/clips/fire.mp4",
        "analyzer/nano/clips/quiet.mp4",
        "deploy/demo.yaml",
        "deploy/example.yaml",
    ],
)
def test_the_wheel_ships(wheel: zipfile.ZipFile, name: str) -> None:
    assert wheel.getinfo(name).file_size > 0


@pytest.mark.parametrize("part", ["/schemas/", "/migrations/versions/", "/migrations/env.py"])
def test_the_wheel_ships_files_of(wheel: zipfile.ZipFile, part: str) -> None:
    assert [name for name in wheel.namelist() if part in name]


def test_no_shipped_module_imports_the_workshop(wheel: zipfile.ZipFile) -> None:
    modules = [name for name in wheel.namelist() if name.endswith(".py")]
    assert len(modules) > 100
    for name in modules:
        for imported in imports_of(wheel.read(name).decode()):
            assert not imported.startswith(WORKSHOP), name


def imports_of(source: str) -> list[str]:
    """Return the names of all modules that a module imports, at the top or in a function."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found
