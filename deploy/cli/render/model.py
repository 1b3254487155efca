"""A fetched or inspected model, as JSON and as lines."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.format_bytes import format_bytes

if TYPE_CHECKING:
    from analyzer.models.checkpoint.keys import KeyCheck
    from analyzer.models.checkpoint.manifest import Manifest
    from analyzer.models.inspect import ModelInspection

MAX_KEYS_SHOWN = 5
"""The most keys of each kind that are printed."""


def fetch_fields(folder: Path, manifest: "Manifest", revision: str) -> dict[str, Any]:
    """Return a fetched model as JSON."""
    return {
        "repository": manifest.repository,
        "revision": revision,
        "commit": manifest.commit,
        "folder": str(folder),
        "files": dict(manifest.files),
    }


def fetch_line(folder: Path, manifest: "Manifest", revision: str) -> str:
    """Return the folder of a fetched model, and the setting that uses it."""
    pinned = "" if revision == "main" else f", revision: {revision}"
    use = f"model: {{name: {manifest.repository}{pinned}}}"
    return f"{manifest.repository} at {manifest.commit[:12]} is complete in {folder}; use it: {use}"


def inspection_fields(inspection: "ModelInspection") -> dict[str, Any]:
    """Return whether a model would load, and every reason against it, as JSON."""
    return {
        "name": inspection.name,
        "commit": inspection.commit,
        "loads": inspection.is_loadable,
        "problems": list(inspection.problems),
        "notes": list(inspection.notes),
        "config": dict(inspection.fields),
        "shards": inspection.shards,
        "bytes": inspection.nbytes,
        "parameters": inspection.parameters,
        "dtypes": dict(inspection.dtypes),
        "keys": _key_fields(inspection.keys) if inspection.keys else None,
        "tokenizer": {"size": inspection.vocabulary, "tokens": dict(inspection.tokens)},
        "bytes_read": inspection.nbytes_read,
        "longwatch": version("longwatch"),
    }


def inspection_lines(inspection: "ModelInspection") -> Iterator[str]:
    """Yield the same as plain lines."""
    commit = f" at {inspection.commit}" if inspection.commit else ""
    verdict = "would load" if inspection.is_loadable else "would be refused"
    yield f"{inspection.name}{commit}: {verdict}"
    yield from (f"  refused    {each}" for each in inspection.problems)
    yield from (f"  accepted   {each}" for each in inspection.notes)
    yield from (f"  config     {name}: {value}" for name, value in inspection.fields.items())
    dtypes = ", ".join(f"{count:,} {dtype}" for dtype, count in inspection.dtypes.items())
    size = format_bytes(inspection.nbytes)
    files = f"{size} in {inspection.shards} files" if inspection.shards else "none"
    yield f"  weights    {files}; {inspection.parameters:,} parameters used; {dtypes or 'no types'}"
    if inspection.keys:
        yield from (f"  keys       {line}" for line in _key_lines(inspection.keys))
    ids = ", ".join(f"{word} {' '.join(map(str, ids))}" for word, ids in inspection.tokens.items())
    size = f"{inspection.vocabulary:,} tokens; {ids}"
    yield f"  tokenizer  {size if inspection.vocabulary else 'cannot be used'}"
    nbytes = inspection.nbytes_read
    read = f"; read {format_bytes(nbytes)}" if nbytes is not None else ""
    yield f"  longwatch  {version('longwatch')}{read}"


def _kinds(keys: "KeyCheck") -> dict[str, Sequence[str]]:
    return {
        "unused": sorted(keys.unused),
        "missing": keys.missing,
        "unexpected": keys.unexpected,
        "of another shape": keys.misshapen,
        "quantised": keys.quantised,
    }


def _key_fields(keys: "KeyCheck") -> dict[str, Any]:
    kinds = _kinds(keys)
    return {"used": keys.used} | {
        kind.replace(" ", "_"): {"count": len(named), "first": list(named[:MAX_KEYS_SHOWN])}
        for kind, named in kinds.items()
    }


def _key_lines(keys: "KeyCheck") -> Iterator[str]:
    yield f"{keys.used} used"
    for kind, named in _kinds(keys).items():
        more = ", ..." if len(named) > MAX_KEYS_SHOWN else ""
        if named:
            yield f"{len(named)} {kind}: {', '.join(named[:MAX_KEYS_SHOWN])}{more}"
