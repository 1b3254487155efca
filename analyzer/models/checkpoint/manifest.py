"""The manifest of a fetched model: its repository, commit, and the digest of every file."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from analyzer.errors import ModelUnusable

MANIFEST_FILE = "longwatch.json"
"""The name of the manifest, in the folder of the files it lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The SHA-256 of each file of one commit when it was fetched."""

    repository: str
    commit: str
    files: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the manifest of a folder, None if it was not fetched."""
        path = folder / MANIFEST_FILE
        if not path.is_file():
            return None
        try:
            fields = json.loads(path.read_bytes())
            return cls(
                repository=str(fields["repository"]),
                commit=str(fields["commit"]),
                files={str(name): str(digest) for name, digest in fields["files"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelUnusable(f"{path}: cannot be read: {error!r}: fetch it again") from error

    def write(self, folder: Path) -> None:
        """Write the manifest atomically."""
        partial = folder / f"{MANIFEST_FILE}.half"
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n")
        partial.replace(folder / MANIFEST_FILE)

    def mismatched(self, digests: Mapping[str, str]) -> list[str]:
        """Return the files that are not listed with this digest."""
        return [name for name, digest in digests.items() if self.files.get(name) != digest]


def digests_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of files; raises ModelUnusable with an unreadable file."""
    digests = {}
    for name in names:
        try:
            with (folder / name).open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelUnusable(f"{folder / name}: cannot be read: {error.strerror}") from error
    return digests


def combined_digest(digests: Mapping[str, str]) -> str:
    """Return one SHA-256 over the names and digests of files."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
