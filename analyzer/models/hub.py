"""Models of the Hugging Face hub: fetched once by a command, later found on disk.

Files are in the cache of huggingface_hub (see HF_HOME); a manifest beside them says that the
download is complete. Only `fetch` and `fetch_headers` use the network.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import (
    HfApi,
    constants,
    hf_hub_url,
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
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
    tqdm,
)

from analyzer.errors import ModelUnusable, NotFetched
from analyzer.models.checkpoint.manifest import MANIFEST_FILE, Manifest, digests_of
from analyzer.models.checkpoint.shards import INDEX_FILE, PICKLES, header_length, index_names
from analyzer.models.checkpoint.tokenizer_files import (
    ADDED_TOKEN_FILES,
    TOKENIZER_FILE,
    VOCABULARY_FILES,
)

DEFAULT_REVISION = "main"
DOWNLOAD_PATTERNS = ["*.safetensors", "*.json", "merges.txt", "LICENSE*"]
"""The files to fetch: no pickle, no code."""
HEADER_PROBE_BYTES = 100_000
"""First bytes of a shard to read: nearly every header fits."""
MAX_SMALL_FILE_BYTES = 64_000_000
RESUME_HINT = "complete files are kept"


def find_fetched(repository: str, revision: str | None) -> Path:
    """Return the folder of a fetched model; raises ModelUnusable if it was not fetched."""
    revision = revision or DEFAULT_REVISION
    manifest = try_to_load_from_cache(repository, MANIFEST_FILE, revision=revision)
    if not isinstance(manifest, str):
        reason = f"{repository}: no folder here, and revision {revision} was not fetched"
        raise ModelUnusable(f"{reason}: run `{fetch_command(repository, revision)}`")
    return Path(manifest).parent


def fetch_command(repository: str, revision: str) -> str:
    """Return the command that fetches a model."""
    return f"longwatch model fetch {repository} --revision {revision}"


def fetch(repository: str, revision: str = DEFAULT_REVISION) -> tuple[Path, Manifest]:
    """Download a model, with a progress bar on stderr, and verify every byte.

    Complete files are not downloaded again; a corrupt one is, once. Raises NotFetched.
    """
    for _ in range(2):
        with _translate_errors(repository, revision, f"{RESUME_HINT}, try again"):
            folder, published = _download(repository, revision)
        digests = digests_of(folder, published)
        mismatched = [
            name
            for name, digest in digests.items()
            if not _is_as_published(folder / name, digest, published[name])
        ]
        if not mismatched:
            manifest = Manifest(repository=repository, commit=folder.name, files=digests)
            manifest.write(folder)
            return folder, manifest
        for name in mismatched:
            (folder / name).resolve().unlink()
            (folder / name).unlink(missing_ok=True)
    reason = f"{mismatched[0]} arrived with a wrong digest, twice"
    raise NotFetched(f"{repository}: {reason}: try again, or ask who publishes it")


def _download(repository: str, revision: str) -> tuple[Path, dict[str, RepoSibling]]:
    """Download missing files; return their folder, and the hub's entry of each file."""
    info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    published = {
        file.rfilename: file
        for file in info.siblings or []
        if any(fnmatch(file.rfilename, pattern) for pattern in DOWNLOAD_PATTERNS)
    }
    missing = sum(
        file.size or 0
        for name, file in published.items()
        if not isinstance(try_to_load_from_cache(repository, name, revision=info.sha), str)
    )
    _check_disk_space(repository, missing)
    with _progress_bars() as bars:
        found = snapshot_download(
            repository, revision=revision, allow_patterns=DOWNLOAD_PATTERNS, tqdm_class=bars
        )
    if Path(found).name != info.sha:
        raise NotFetched(
            f"{repository}: {revision} moved during the download: {RESUME_HINT}, try again"
        )
    return Path(found), published


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedHeaders:
    """The result of `fetch_headers`: a folder, the commit, and the bytes read."""

    folder: Path
    commit: str
    nbytes: int


@contextmanager
def fetch_headers(
    repository: str, revision: str = DEFAULT_REVISION, endpoint: str | None = None
) -> Iterator[FetchedHeaders]:
    """Yield a temporary folder with the small files of a model and the headers of its shards.

    The shards have their full length as sparse files. Raises NotFetched.
    """
    with TemporaryDirectory(prefix="longwatch-") as name:
        folder = Path(name)
        with _translate_errors(repository, revision, "try again"):
            hub = HfApi(endpoint)
            info = hub.model_info(repository, revision=revision, files_metadata=True)
            reader = _RangeReader(hub, repository, str(info.sha))
            sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
            top_level_sizes = {
                each: size for each, size in sizes.items() if each == Path(each).name
            }
            _write_small_files(reader, folder, top_level_sizes)
            _write_headers(reader, folder, top_level_sizes)
        yield FetchedHeaders(folder=folder, commit=str(info.sha), nbytes=reader.nbytes)


class _RangeReader:
    """Reads the beginnings of the files of one commit."""

    def __init__(self, hub: HfApi, repository: str, commit: str) -> None:
        self._hub = hub
        self._repository = repository
        self._commit = commit
        self.nbytes = 0

    def read(self, name: str, length: int) -> bytes:
        """Return the first bytes of a file, even from a server that ignores ranges."""
        endpoint = self._hub.endpoint
        url = hf_hub_url(self._repository, name, revision=self._commit, endpoint=endpoint)
        wanted = {"Range": f"bytes=0-{length - 1}", "Accept-Encoding": "identity"}
        headers = {**build_hf_headers(), **wanted}
        content = bytearray()
        with http_stream_backoff("GET", url, headers=headers) as response:
            hf_raise_for_status(response)
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) >= length:
                    break
        self.nbytes += min(length, len(content))
        return bytes(content[:length])


def _write_small_files(reader: _RangeReader, folder: Path, sizes: Mapping[str, int]) -> None:
    """Write the configuration, the tokenizer and the index; for pickles, empty files."""
    whole = [TOKENIZER_FILE] if TOKENIZER_FILE in sizes else [*VOCABULARY_FILES, *ADDED_TOKEN_FILES]
    for name in ("config.json", INDEX_FILE, *whole):
        if 0 < sizes.get(name, 0) <= MAX_SMALL_FILE_BYTES:
            (folder / name).write_bytes(reader.read(name, sizes[name]))
    for name in sizes:
        if any(fnmatch(name, pattern) for pattern in PICKLES):
            (folder / name).touch()


def _write_headers(reader: _RangeReader, folder: Path, sizes: Mapping[str, int]) -> None:
    """Write the header of each shard, and a hole as long as its tensors."""
    for name in _shard_names(folder, sizes):
        raw = reader.read(name, min(sizes[name], HEADER_PROBE_BYTES))
        with suppress(ValueError):  # reading the folder reports an invalid header
            if header_length(raw) > len(raw):
                raw = reader.read(name, min(sizes[name], header_length(raw)))
        (folder / name).write_bytes(raw)
        os.truncate(folder / name, sizes[name])


def _shard_names(folder: Path, sizes: Mapping[str, int]) -> list[str]:
    found = [name for name in sizes if name.endswith(".safetensors")]
    if not (folder / INDEX_FILE).is_file():
        return found
    try:
        listed = index_names(folder / INDEX_FILE)
    except ModelUnusable:  # reading the folder reports it
        return []
    return [name for name in found if name in listed]


@contextmanager
def _translate_errors(repository: str, revision: str, remedy: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into NotFetched."""
    try:
        yield
    except RevisionNotFoundError as error:
        raise NotFetched(f"{repository}: has no revision {revision}") from error
    except RepositoryNotFoundError as error:
        reason = "the hub has no such model, or it needs a token: set HF_TOKEN"
        raise NotFetched(f"{repository}: {reason}") from error
    except HFValidationError as error:
        raise NotFetched(f"{repository}: write it as OWNER/NAME") from error
    except (HTTPError, LocalEntryNotFoundError) as error:
        reason = f"{constants.ENDPOINT} cannot be used ({_first_line(error.__cause__ or error)})"
        raise NotFetched(f"{repository}: {reason}: {remedy}") from error
    except OSError as error:
        reason = (
            f"{error.filename or constants.HF_HUB_CACHE}: {error.strerror or _first_line(error)}"
        )
        raise NotFetched(f"{repository}: {reason}: {remedy}") from error


@contextmanager
def _progress_bars() -> Iterator[type[tqdm]]:
    """Yield a class of progress bars, and close those that are left open."""
    bars = list[tqdm]()

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            bars.append(self)

    try:
        yield Bar
    finally:
        for bar in bars:
            bar.close()


def _check_disk_space(repository: str, missing: int) -> None:
    """Raise NotFetched if the disk has no room for the missing bytes."""
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if missing > free:
        reason = (
            f"{missing / 1e6:,.0f} MB to download, and {cache} has room for {free / 1e6:,.0f} MB"
        )
        raise NotFetched(f"{repository}: {reason}: free some, or set HF_HOME to a larger disk")


def _is_as_published(path: Path, digest: str, file: RepoSibling) -> bool:
    """Return whether a file has its published size and SHA-256, or git digest without that."""
    if path.stat().st_size != file.size:
        return False
    if file.lfs is not None:
        return digest == file.lfs.sha256
    content = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return blob.hexdigest() == file.blob_id


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
