"""Roles that cannot run with their configuration: a file for each, in the data directory.

The supervisor writes them without a database; a role writes one itself while a server refuses an
operation. Status commands and health rules read them.
"""

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

FOLDER = "held-back"
REFUSED_MARK = ".refused"
"""The mark of a file that the role wrote itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleProblem:
    """A role that cannot run, why, and since when."""

    role: str
    reason: str
    since: datetime


def write_role_problem(data: Path, problem: RoleProblem, mark: str = "") -> None:
    """Write the problem of a role; raises OSError."""
    folder = data / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    draft = folder / f".{problem.role}{mark}"
    text = json.dumps(
        {"role": problem.role, "reason": problem.reason, "since": problem.since.isoformat()}
    )
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.rename(folder / f"{problem.role}{mark}.json")


def clear_role_problem(data: Path, role: str, mark: str = "") -> None:
    """Delete the problem of a role, if any; raises OSError."""
    (data / FOLDER / f"{role}{mark}.json").unlink(missing_ok=True)


def read_role_problems(data: Path) -> list[RoleProblem]:
    """Return the problems of roles, by name; skip unreadable files."""
    found = list[RoleProblem]()
    for path in sorted((data / FOLDER).glob("*.json")):
        try:
            fields = json.loads(path.read_text())
            since = datetime.fromisoformat(fields["since"])
            found.append(RoleProblem(role=fields["role"], reason=fields["reason"], since=since))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
