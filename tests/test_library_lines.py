"""What libraries say again and again is one line a minute; what we say is never left out."""

import json
import logging
import subprocess
import sys

from deploy.logs.rate_limit import INTERVAL_SECONDS, RateLimitFilter

STORM = """
import logging
import structlog
from deploy.logs.setup import LoggingConfig, configure_logging

configure_logging(LoggingConfig(), "alert")
library = logging.getLogger("kafka.net.manager")
for n in range(3000):
    library.warning("Bootstrap %s not ready; waiting %.2f secs", f"bootstrap-{n % 2}", n / 7)
    library.error(f"Bootstrap attempt to {n} failed: 'b{n}' (backoff {n / 9:.2f} secs)")
    if n % 100 == 0:
        structlog.get_logger().info("ours")
"""


def test_a_storm_of_a_library_is_a_line_of_each_kind() -> None:
    result = subprocess.run(
        [sys.executable, "-c", STORM], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    ours = [line for line in lines if line["event"] == "ours"]
    theirs = [line for line in lines if line["event"] != "ours"]
    assert len(ours) == 30
    assert [line["level"] for line in theirs] == ["warning", "error"]
    assert {line["process"] for line in lines} == {"alert"}


def record(text: str, *args: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("kafka.conn", level, "conn.py", 1, text, args, None)


def test_a_line_a_minute_says_how_many_like_it_were_left_out() -> None:
    now = 0.0
    lines = RateLimitFilter(lambda: now)
    shown = []
    for nth in range(3000):  # 150 s
        now = nth / 20
        if lines.filter(one := record("node %s: lost after %d ms", nth % 3, nth)):
            shown.append((now, vars(one)["left_out"]))
    assert shown == [(0.0, 0), (60.0, 1199), (120.0, 1199)]


def test_lines_of_other_levels_and_texts_are_of_their_own_kind() -> None:
    lines = RateLimitFilter(lambda: 0.0)
    assert lines.filter(record("lost"))
    assert lines.filter(record("lost", level=logging.ERROR))
    assert lines.filter(record("found"))
    assert not lines.filter(record("found"))
    assert lines.filter(record("%s", "one.py:1: a warning"))
    assert lines.filter(record("%s", "one.py:1: another"))


def test_ever_new_texts_do_not_fill_the_memory_and_are_limited_too() -> None:
    lines = RateLimitFilter(lambda: 0.0)
    passed = sum(lines.filter(record("x" * n)) for n in range(5000))
    assert 100 < passed < 1000
    assert len(lines._passed) < 1000
    assert INTERVAL_SECONDS == 60.0
