"""Which process this is, and whether another one of this machine has ended."""

import os
from pathlib import Path

_PROC = Path("/proc")


def process_identity() -> str:
    """Return what no other process of any machine is called; empty where /proc does not tell."""
    return _identity(os.getpid())


def has_ended(process: str) -> bool:
    """Return whether a process ran where this one does, and is gone; False where nobody knows."""
    machine, _, rest = process.rpartition("/")
    pid, _, _ = rest.partition("@")
    this_machine, _, _ = process_identity().rpartition("/")
    return bool(this_machine) and machine == this_machine and _identity(int(pid)) != process


def _identity(pid: int) -> str:
    """Return boot, namespace, number and start of a process: numbers are used again."""
    try:
        boot_id = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        # Two containers of a machine count their processes apart.
        pid_namespace = (_PROC / "self/ns/pid").readlink()
        # The name of the program, in brackets, may hold anything.
        fields = (_PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else f"{boot_id}/{pid_namespace}/{pid}@{fields[19]}"
