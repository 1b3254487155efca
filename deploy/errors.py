"""What can go wrong in deploy.

DeployError
├── BadSettings   the settings, or what was asked for, cannot be used: exit 2
├── CannotRun     a role cannot run as it is configured: its process ends with 2
├── DataInUse     another longwatch runs on the data directory
└── Failed        something that was asked for could not be done

Each line of a text is one line for a person, without a secret.
"""

from pathlib import Path


class DeployError(Exception):
    """Anything that deploy reports; `exit_code` is what the command ends with."""

    exit_code = 1


class BadSettings(DeployError):
    """Say, one line each, all that is wrong and what to do."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))


class CannotRun(DeployError):
    """Say, in one line, why a role cannot run as it is configured."""

    exit_code = 2


class DataInUse(DeployError):
    """Say that another longwatch runs on a data directory."""

    def __init__(self, data: Path, owner: str) -> None:
        super().__init__(
            f"{data} is in use by process {owner}: stop that, or name another data directory"
        )


class CommandFailed(DeployError):
    """Say what could not be done and what to do."""
