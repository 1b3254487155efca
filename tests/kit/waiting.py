"""Waiting for a condition, with a failure that says which one."""

import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> float:
    """Return the seconds until the condition is true; raises AssertionError after `seconds`."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"{_name(condition)}: false for {seconds:g} s"
        time.sleep(0.02)
    return time.monotonic() - started


def _name(condition: Callable[[], object]) -> str:
    code = getattr(condition, "__code__", None)
    if not isinstance(code, CodeType):
        return repr(condition)
    return f"{code.co_name} of {Path(code.co_filename).name}:{code.co_firstlineno}"
