"""A real street, from the first still to the last finding."""

import json
from pathlib import Path

import pytest

from kit.deploy.command import longwatch

VTEST = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")
SETTINGS = """\
cameras: {street: {url: "rtsp://camera.example/street"}}
questions: {unusual: {ask: "Is anything unusual happening?"}}
rules: [{name: unusual, when: unusual, above: 0.8}]
"""


@pytest.mark.slow
@pytest.mark.skipif(not VTEST.is_file(), reason="needs Debian's opencv-doc")
def test_a_real_street_is_backtested_from_end_to_end(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(SETTINGS)
    done = longwatch("backtest", "-c", str(site), str(VTEST), "--json")
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert output["windows"] == output["findings"] == 5
    assert 78 <= output["seconds"] <= 80
    assert output["speed"] > 1
