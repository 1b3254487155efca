"""The identity of this process, and whether another one on this machine has ended."""

import os
from pathlib import Path

_PROC = Path("/proc")


def process_identity() -> str:
    """Return an identity unique across machines; empty if /proc cannot be read."""
    return _identity(os.getpid())


def has_ended(process: str) -> bool:
    """Return whether a process ran on this machine and has ended; False if unknown."""
    machine, _, rest = process.rpartition("/")
    pid, _, _ = rest.partition("@")
    this_machine, _, _ = process_identity().rpartition("/")
    return bool(this_machine) and machine == this_machine and _identity(int(pid)) != process


def _identity(pid: int) -> str:
    """Return boot, namespace, pid and start time of a process: pids are reused."""
    try:
        boot_id = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        # Each container of a machine has its own pids.
        pid_namespace = (_PROC / "self/ns/pid").readlink()
        # The name of the program, in brackets, may contain anything.
        fields = (_PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else f"{boot_id}/{pid_namespace}/{pid}@{fields[19]}"
