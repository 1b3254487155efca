"""What can go wrong in deploy.

DeployError
├── BadSettings     the settings, or the options of a command, cannot be used: exit 2
├── CannotRun       a role cannot run as it is configured: its process exits with 2
├── DataInUse       another longwatch runs on the data directory
└── CommandFailed   a command could not do what it should

A message has one line for each problem, without secrets.
"""

from pathlib import Path


class DeployError(Exception):
    """An error that a command prints; `exit_code` is its exit code."""

    exit_code = 1


class BadSettings(DeployError):
    """Report all problems and what to do, one line each."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))


class CannotRun(DeployError):
    """Report in one line why a role cannot run as it is configured."""

    exit_code = 2


class DataInUse(DeployError):
    """Report that another longwatch runs on a data directory."""

    def __init__(self, data: Path, owner: str) -> None:
        super().__init__(
            f"{data} is in use by process {owner}: stop that, or name another data directory"
        )


class CommandFailed(DeployError):
    """Report what could not be done and what to do."""
