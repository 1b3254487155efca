"""A model that is published on the hub: fetched once by a command, later found on the disk.

It lies where huggingface_hub keeps everything (HF_HOME says where); the manifest beside its
files says that it arrived whole. Nothing but `fetch` uses the network.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import (
    HfApi,
    constants,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

from analyzer.errors import ModelUnusable, NotFetched
from analyzer.videoxl2.manifest import FILE, Manifest, digests_of

MAIN = "main"
WANTED = ["*.safetensors", "*.json", "merges.txt", "LICENSE*"]
"""What is fetched: no pickle, no code."""
KEPT = "files that came whole are kept"


def find(repository: str, revision: str | None) -> Path:
    """Return the folder that `fetch` filled; raises ModelUnusable where it did not."""
    revision = revision or MAIN
    manifest = try_to_load_from_cache(repository, FILE, revision=revision)
    if not isinstance(manifest, str):
        told = f"{repository}: no folder here, and revision {revision} was not fetched"
        raise ModelUnusable(f"{told}: run `{command(repository, revision)}`")
    return Path(manifest).parent


def command(repository: str, revision: str) -> str:
    """Return the command that fetches a model."""
    return f"longwatch model fetch {repository} --revision {revision}"


def fetch(repository: str, revision: str = MAIN) -> tuple[Path, Manifest]:
    """Bring a model to the disk, with a progress bar on stderr, and check every byte of it.

    Files that are there are not fetched again, and a file that is wrong is, once. Raises
    NotFetched.
    """
    for _ in range(2):
        with _one_line_errors(repository, revision):
            folder, published = _bring(repository, revision)
        digests = digests_of(folder, published)
        wrong = [
            name
            for name, digest in digests.items()
            if not _is_as_published(folder / name, digest, published[name])
        ]
        if not wrong:
            manifest = Manifest(repository=repository, commit=folder.name, files=digests)
            manifest.write(folder)
            return folder, manifest
        for name in wrong:
            (folder / name).resolve().unlink()
            (folder / name).unlink(missing_ok=True)
    told = f"{wrong[0]} arrived with a wrong digest, twice"
    raise NotFetched(f"{repository}: {told}: try again, or ask who publishes it")


def _bring(repository: str, revision: str) -> tuple[Path, dict[str, RepoSibling]]:
    """Download what is not here; return where it lies, and what the hub says of each file."""
    info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    published = {
        file.rfilename: file
        for file in info.siblings or []
        if any(fnmatch(file.rfilename, pattern) for pattern in WANTED)
    }
    missing = sum(
        file.size or 0
        for name, file in published.items()
        if not isinstance(try_to_load_from_cache(repository, name, revision=info.sha), str)
    )
    _make_sure_of_room(repository, missing)
    with _progress_bars() as bars:
        found = snapshot_download(
            repository, revision=revision, allow_patterns=WANTED, tqdm_class=bars
        )
    if Path(found).name != info.sha:
        raise NotFetched(f"{repository}: {revision} was moved while it came: {KEPT}, try again")
    return Path(found), published


@contextmanager
def _one_line_errors(repository: str, revision: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into NotFetched."""
    try:
        yield
    except RevisionNotFoundError as error:
        raise NotFetched(f"{repository}: has no revision {revision}") from error
    except RepositoryNotFoundError as error:
        told = "the hub knows no such model, or shows it only to some: set HF_TOKEN"
        raise NotFetched(f"{repository}: {told}") from error
    except HFValidationError as error:
        raise NotFetched(f"{repository}: write it as OWNER/NAME") from error
    except (HTTPError, LocalEntryNotFoundError) as error:
        told = f"{constants.ENDPOINT} cannot be used ({_first_line(error.__cause__ or error)})"
        raise NotFetched(f"{repository}: {told}: {KEPT}, try again") from error
    except OSError as error:
        told = f"{constants.HF_HUB_CACHE}: {error.strerror or _first_line(error)}"
        raise NotFetched(f"{repository}: {told}: {KEPT}, try again") from error


@contextmanager
def _progress_bars() -> Iterator[type[tqdm]]:
    """Yield a class of progress bars, and close those that are left open."""
    made = list[tqdm]()

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            made.append(self)

    try:
        yield Bar
    finally:
        for bar in made:
            bar.close()


def _make_sure_of_room(repository: str, missing: int) -> None:
    """Raise NotFetched where the disk is too small for so many bytes."""
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if missing > free:
        told = f"{missing / 1e6:,.0f} MB to come, and {cache} has room for {free / 1e6:,.0f} MB"
        raise NotFetched(f"{repository}: {told}: free some, or set HF_HOME to a larger disk")


def _is_as_published(path: Path, digest: str, file: RepoSibling) -> bool:
    """Compare a file's SHA-256, or git's own digest where the hub gives no other."""
    if path.stat().st_size != file.size:
        return False
    if file.lfs is not None:
        return digest == file.lfs.sha256
    content = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return blob.hexdigest() == file.blob_id


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
