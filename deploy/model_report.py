"""What `longwatch model` prints: JSON for machines, lines for people and for issues."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.units import size_text

if TYPE_CHECKING:
    from analyzer.videoxl2.inspect import Inspection
    from analyzer.videoxl2.keys import KeyCheck
    from analyzer.videoxl2.manifest import Manifest

SHOWN = 5
"""How many keys of each kind are printed."""


def fetch_fields(folder: Path, manifest: "Manifest", revision: str) -> dict[str, Any]:
    """Return what was fetched."""
    return {
        "repository": manifest.repository,
        "revision": revision,
        "commit": manifest.commit,
        "folder": str(folder),
        "files": dict(manifest.files),
    }


def fetch_line(folder: Path, manifest: "Manifest", revision: str) -> str:
    """Say where a fetched model is and how it is used."""
    pinned = "" if revision == "main" else f", revision: {revision}"
    use = f"model: {{name: {manifest.repository}{pinned}}}"
    return f"{manifest.repository} at {manifest.commit[:12]} is complete in {folder}; use it: {use}"


def inspection_fields(found: "Inspection") -> dict[str, Any]:
    """Return what would load of a model, and every reason why it would not."""
    return {
        "name": found.name,
        "commit": found.commit,
        "loads": found.loads,
        "problems": list(found.problems),
        "notes": list(found.notes),
        "config": dict(found.fields),
        "shards": found.shards,
        "bytes": found.nbytes,
        "parameters": found.parameters,
        "dtypes": dict(found.dtypes),
        "keys": _key_fields(found.keys) if found.keys else None,
        "tokenizer": {"size": found.vocabulary, "tokens": dict(found.tokens)},
        "bytes_read": found.nbytes_read,
        "longwatch": version("longwatch"),
    }


def inspection_lines(found: "Inspection") -> Iterator[str]:
    """Yield the same as plain lines, to be read or pasted into an issue."""
    commit = f" at {found.commit}" if found.commit else ""
    yield f"{found.name}{commit}: {'would load' if found.loads else 'would be refused'}"
    yield from (f"  refused    {each}" for each in found.problems)
    yield from (f"  accepted   {each}" for each in found.notes)
    yield from (f"  config     {name}: {value}" for name, value in found.fields.items())
    dtypes = ", ".join(f"{count:,} {dtype}" for dtype, count in found.dtypes.items())
    files = f"{size_text(found.nbytes)} in {found.shards} files" if found.shards else "none"
    yield f"  weights    {files}; {found.parameters:,} parameters used; {dtypes or 'no types'}"
    if found.keys:
        yield from (f"  keys       {line}" for line in _key_lines(found.keys))
    ids = ", ".join(f"{word} {' '.join(map(str, ids))}" for word, ids in found.tokens.items())
    known = f"{found.vocabulary:,} tokens; {ids}" if found.vocabulary else "cannot be used"
    yield f"  tokenizer  {known}"
    read = f"; read {size_text(found.nbytes_read)}" if found.nbytes_read is not None else ""
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
        kind.replace(" ", "_"): {"count": len(named), "first": list(named[:SHOWN])}
        for kind, named in kinds.items()
    }


def _key_lines(keys: "KeyCheck") -> Iterator[str]:
    yield f"{keys.used} used"
    for kind, named in _kinds(keys).items():
        more = ", ..." if len(named) > SHOWN else ""
        if named:
            yield f"{len(named)} {kind}: {', '.join(named[:SHOWN])}{more}"
