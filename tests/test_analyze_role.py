"""The analyzer's process as it starts: what it sets before torch is there, and that it ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SITE = """\
cameras:
  dock: {url: "rtsp://10.0.0.21/sub"}
questions:
  any: {ask: "Is anything unusual happening?", look_back: 32s}
  bag: {ask: "Is there a bag?"}
model: {device: cpu}
"""
CODE = """
import os, sys, threading
from importlib.abc import MetaPathFinder
from pathlib import Path
from deploy.runtime.role_builder import build_analyze_role
from deploy.config.settings_file import read_settings

class Noting(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch with", os.environ.get("PYTORCH_ALLOC_CONF"))

role = build_analyze_role(read_settings(Path(sys.argv[1])), 20)
demand = role.demand
print(demand.cameras, len(demand.asks), sorted(each.days > 1 for each in demand.look_backs))
sys.meta_path.insert(0, Noting())
stop, promised = threading.Event(), []

def keepalive(seconds):
    promised.append(seconds)
    if len(promised) > 4:
        stop.set()

role.run(stop, keepalive)
print("ended", len(promised) > 3)
"""


@pytest.mark.slow
def test_before_torch_is_there_segments_can_grow(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(SITE)
    (tmp_path / "data").mkdir()
    result = subprocess.run(
        [sys.executable, "-c", CODE, str(site)],
        capture_output=True,
        text=True,
        check=True,
        env={name: text for name, text in os.environ.items() if "ALLOC" not in name},
    )
    lines_found = [
        line for line in result.stdout.splitlines() if line.startswith(("1 ", "torch", "ended"))
    ]
    assert lines_found == ["1 2 [False, True]", "torch with expandable_segments:True", "ended True"]
