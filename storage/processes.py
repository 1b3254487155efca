"""Which process this is, and whether another one of this machine has ended."""

import os
from pathlib import Path

_PROC = Path("/proc")


def this_process() -> str:
    """Return what no other process of any machine is called; empty where /proc does not tell."""
    return _called(os.getpid())


def has_ended(process: str) -> bool:
    """Return whether a process ran where this one does, and is gone; False where nobody knows."""
    machine, _, rest = process.rpartition("/")
    number, _, _ = rest.partition("@")
    here, _, _ = this_process().rpartition("/")
    return bool(here) and machine == here and _called(int(number)) != process


def _called(number: int) -> str:
    """Return boot, namespace, number and start of a process: numbers are used again."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        # Two containers of a machine count their processes apart.
        space = (_PROC / "self/ns/pid").readlink()
        # The name of the program, in brackets, may hold anything.
        fields = (_PROC / f"{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else f"{boot}/{space}/{number}@{fields[19]}"
