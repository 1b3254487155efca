"""Log lines: what they are, and what never stands in them."""

import json
import subprocess
import sys

import pytest

PASSWORD, SECRET = "p%40ss/w0rd", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
LOGGING = """
import logging, sys, warnings
import structlog
from deploy.logs import Logging, configure

password, secret, spelling = sys.argv[1:]
configure(Logging(secrets=(f"rtsp://guard:{password}@10.0.0.21/sub", secret)))
try:
    raise OSError(f"cannot open rtsp://guard:{spelling}@10.0.0.21/sub")
except OSError:
    structlog.get_logger().error(f"{spelling} {secret}", url=spelling, all=[secret], exc_info=True)
    logging.getLogger("library").exception("signed with %s", secret)
warnings.warn(f"camera {spelling}")
structlog.get_logger().debug("too much")
"""


@pytest.mark.parametrize("spelling", [PASSWORD, "p@ss/w0rd"])
def test_no_log_line_shows_a_secret(spelling: str) -> None:
    command = [sys.executable, "-c", LOGGING, PASSWORD, SECRET, spelling]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout == ""
    assert spelling not in said.stderr
    assert SECRET not in said.stderr
    lines = [json.loads(line) for line in said.stderr.splitlines()]
    assert len(lines) == 3
    assert all("***" in line["event"] for line in lines)
    assert all("OSError: cannot open " in line["exception"] for line in lines[:2])
