"""The files of one model on disk, without its weights being read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from analyzer.errors import ModelUnusable
from analyzer.models.checkpoint.manifest import Manifest, combined_digest, digests_of
from analyzer.models.checkpoint.shards import INDEX_FILE, Shard, find_shards
from analyzer.models.checkpoint.tokenizer_files import tokenizer_files
from analyzer.models.families import FAMILY
from analyzer.models.videoxl2.config import VideoXL2Config

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NANO_FOLDER = Path(__file__).parent.parent / "nano"
CONFIG_FILE = "config.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model whose files exist and fit together, as far as that shows without loading.

    `notes` name ignored fields of the configuration.
    """

    folder: Path
    config: VideoXL2Config
    tokenizer: "Tokenizer | None"
    """None on a machine that runs no model: `tokenizers` is not installed."""
    shards: tuple[Shard, ...]
    manifest: Manifest | None
    notes: tuple[str, ...]

    @classmethod
    def find(cls, name: str, revision: str | None = None) -> Self:
        """Find `nano`, a folder, or a fetched repository of the hub, without reading weights.

        Raises ModelUnusable with the file that is missing or wrong.
        """
        return cls.open(model_folder(name, revision))

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the configuration, the tokenizer and the heads of the shards in a folder."""
        if not (folder / CONFIG_FILE).is_file():
            reason = "name `nano`, a folder with a model, or one on the hub as OWNER/NAME"
            raise ModelUnusable(f"no {CONFIG_FILE} in {folder}: {reason}")
        parsed = FAMILY.read_config(folder / CONFIG_FILE)
        config = parsed.require_config(folder / CONFIG_FILE)
        return cls(
            folder=folder,
            config=config,
            tokenizer=_read_tokenizer(folder, config.vocabulary_size),
            shards=tuple(find_shards(folder)),
            manifest=Manifest.read(folder),
            notes=parsed.notes,
        )

    @property
    def files(self) -> list[str]:
        """Return the names of all files of the model."""
        return [*self._small_files, *(shard.name for shard in self.shards)]

    @property
    def _small_files(self) -> list[str]:
        index = [INDEX_FILE] if (self.folder / INDEX_FILE).is_file() else []
        return [CONFIG_FILE, *tokenizer_files(self.folder), *index]

    def identity(self, digests_of_shards: Mapping[str, str] | None = None) -> str:
        """Return the name and digest of the model; shards are read unless digests are passed.

        Raises ModelUnusable if a file differs from the fetched one.
        """
        if digests_of_shards is None:
            digests = digests_of(self.folder, self.files)
        else:
            digests = {**digests_of(self.folder, self._small_files), **digests_of_shards}
        digest = combined_digest(digests)[:12]
        if self.manifest is None:
            return f"{self.folder.name}@{digest}"
        repository, commit = self.manifest.repository, self.manifest.commit
        mismatched = self.manifest.mismatched(digests)
        if mismatched:
            remedy = f"run `longwatch model fetch {repository} --revision {commit}` again"
            raise ModelUnusable(f"{self.folder / mismatched[0]}: not as it was fetched: {remedy}")
        return f"{repository}@{commit[:12]}+{digest}"


def _read_tokenizer(folder: Path, vocabulary: int | None) -> "Tokenizer | None":
    tokenizer_files(folder)
    try:
        from analyzer.models.tokenizer import read_tokenizer  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    return read_tokenizer(folder, vocabulary)


def is_hub_name(name: str) -> bool:
    """Return whether a name means a repository on the hub, and no folder."""
    is_here = name == "nano" or Path(name).is_dir()
    return not is_here and _HUB_NAME.fullmatch(name) is not None


def model_folder(name: str, revision: str | None) -> Path:
    """Return the folder of a model on this machine; raises ModelUnusable."""
    if is_hub_name(name):
        from analyzer.models import hub  # noqa: PLC0415  takes half a second

        return hub.find_fetched(name, revision)
    if revision is not None:
        raise ModelUnusable(f"{name}: is a folder: a revision is for a model on the hub")
    return NANO_FOLDER if name == "nano" else Path(name)
