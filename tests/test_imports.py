import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from deploy.config.data_dir import LOG_FILE
from kit.deploy.command import LONGWATCH, ROOT
from kit.ingest.fixtures import Clips
from kit.ingest.rtsp_camera import RtspCamera
from kit.storage.fixtures import a_finding
from kit.waiting import wait_for
from storage.log.sqlite.log import SqliteLog
from storage.records.topics import FINDINGS, INCIDENTS, WINDOWS
from storage.records.wire import encode_finding

FORBIDDEN = {
    "storage": ("torch", "transformers", "av"),
    "alerts": ("torch", "transformers", "av"),
    "ingest": ("torch", "transformers"),
}
CODE = """
import sys
from importlib import import_module
for name in sys.argv[2].split(","):
    import_module(name)
print(*sorted(set(sys.argv[1].split(",")) & set(sys.modules)))
"""


def modules_of(package: str) -> list[str]:
    found = pkgutil.walk_packages(import_module(package).__path__, f"{package}.")
    # Alembic alone can run its environment and its steps.
    return [module.name for module in found if ".migrations." not in module.name]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_package_loads_nothing_heavy(package: str) -> None:
    modules = modules_of(package)
    assert modules
    loaded = subprocess.run(
        [sys.executable, "-c", CODE, ",".join(FORBIDDEN[package]), ",".join(modules)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.split() == []


WITHOUT_MODEL_LIBRARIES = """
import sys
from importlib.abc import MetaPathFinder

class Uninstalled(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "safetensors", "tokenizers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Uninstalled())
"""
SITE = """
cameras: {{dock: {{url: "{url}", window: 4s}}}}
questions: {{bag: {{ask: "Is a bag left alone?", every: 4s}}}}
rules: [{{name: bag-left, when: bag, above: 0.5}}]
data: {data}
"""


@pytest.fixture(name="environment")
def make_environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which every Python process lacks the libraries of the model."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_MODEL_LIBRARIES)
    return {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


def write_site(folder: Path, url: str = "rtsp://127.0.0.1/dock") -> Path:
    site = folder / "site.yaml"
    site.write_text(SITE.format(url=url, data=folder / "data"))
    return site


@contextmanager
def service(name: str, site: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run a service while the block runs; it must end with 0 after SIGTERM."""
    words = [*LONGWATCH, name, "-c", str(site)]
    with subprocess.Popen(words, env=environment, cwd=ROOT) as process:
        try:
            yield
        finally:
            process.terminate()
    assert process.returncode == 0


def has_entries(log: SqliteLog, topic: str) -> bool:
    return any(log.end_offset(each) > 0 for each in log.partitions(topic))


def test_no_torch_can_be_imported_there(environment: dict[str, str]) -> None:
    words = [sys.executable, "-c", "import torch"]
    result = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert "No module named 'torch'" in result.stderr


def test_validate_needs_no_model_library(tmp_path: Path, environment: dict[str, str]) -> None:
    words = [*LONGWATCH, "validate", "-c", str(write_site(tmp_path))]
    result = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")


def test_alert_needs_no_model_library(tmp_path: Path, environment: dict[str, str]) -> None:
    site = write_site(tmp_path)
    (tmp_path / "data").mkdir()
    log = SqliteLog(tmp_path / "data" / LOG_FILE)
    log.append(FINDINGS, "dock", encode_finding(a_finding()))
    with service("alert", site, environment):
        wait_for(lambda: has_entries(log, INCIDENTS), 60)
    log.close()


def test_ingest_needs_no_model_library(
    tmp_path: Path, environment: dict[str, str], clips: Clips
) -> None:
    (tmp_path / "data").mkdir()
    log = SqliteLog(tmp_path / "data" / LOG_FILE)
    with (
        RtspCamera(clips.plain) as camera,
        service("ingest", write_site(tmp_path, camera.url), environment),
    ):
        wait_for(lambda: has_entries(log, WINDOWS), 60)
    log.close()
