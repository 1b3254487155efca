"""A hub of models over HTTP: as much of its API as huggingface_hub uses to fetch one."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEXT = COMMIT[::-1]


@dataclass
class Hub:
    """One repository with one commit; `asked` collects which files are asked of it.

    With `moves` its branch is at another commit when it is asked for again. `served` is sent
    in place of a file; the first answer of a `cut` one ends half way. `sent` counts the bytes
    of files, and without `serves_ranges` each is sent whole.
    """

    repository: str
    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main", "v1", COMMIT, NEXT)
    moves: bool = False
    serves_ranges: bool = True
    sent: int = 0
    served: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    url: str = ""
    commit: str = COMMIT

    @property
    def fetched(self) -> list[str]:
        """Return which files were asked for, and from which byte on where not from the first."""
        return [line.removeprefix("GET ") for line in self.requests if line.startswith("GET ")]

    def tree(self) -> list[dict[str, Any]]:
        """Return the files as one listing of the hub tells them."""
        return [
            {"type": "file", "path": name, "size": len(content), "oid": blob_of(name, content)}
            | ({"lfs": {"oid": sha256(content), **lfs_sizes(content)}} if is_large(name) else {})
            for name, content in self.files.items()
        ]

    def siblings(self) -> list[dict[str, Any]]:
        """Return the files as the other listing tells them."""
        return [
            {"rfilename": name, "size": len(content), "blobId": blob_of(name, content)}
            | ({"lfs": {"sha256": sha256(content), **lfs_sizes(content)}} if is_large(name) else {})
            for name, content in self.files.items()
        ]


def is_large(name: str) -> bool:
    return name.endswith(".safetensors")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def lfs_pointer(content: bytes) -> bytes:
    """Return what git holds in place of a large file (git-lfs's pointer)."""
    head = "version https://git-lfs.github.com/spec/v1"
    return f"{head}\noid sha256:{sha256(content)}\nsize {len(content)}\n".encode()


def lfs_sizes(content: bytes) -> dict[str, int]:
    return {"size": len(content), "pointerSize": len(lfs_pointer(content))}


def blob_of(name: str, content: bytes) -> str:
    """Return git's own digest of what git holds of a file."""
    held = lfs_pointer(content) if is_large(name) else content
    return hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest()


@contextmanager
def run_hub(hub: Hub) -> Iterator[Hub]:
    """Serve a hub on a free port for as long as the block runs."""

    class Handler(_Handler):
        served_hub = hub

    with _Server(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing about clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served_hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub, path = self.served_hub, urlsplit(self.path).path
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        asked = (api or file or [None, None])[1]
        if asked != hub.repository:
            self.refuse("RepoNotFound")
        elif api and api[3] not in hub.revisions:
            self.refuse("RevisionNotFound")
        elif api:
            info = {"id": hub.repository, "sha": hub.commit, "siblings": hub.siblings()}
            hub.commit = NEXT if hub.moves else COMMIT
            self.send(json.dumps(hub.tree() if api[2] == "tree" else info).encode(), {})
        elif file:
            self.send_file(file[2], file[3])

    def send_file(self, commit: str, name: str) -> None:
        hub = self.served_hub
        content = hub.files[name]
        etag = sha256(content) if is_large(name) else blob_of(name, content)
        content = hub.served.get(name, content)
        begin, end = self.wanted_range(len(content))
        if self.command == "GET":
            hub.requests.append(f"GET {name}{f' from {begin}' if begin else ''}")
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
        self.send(content, headers, name, begin, end)

    def wanted_range(self, size: int) -> tuple[int, int]:
        """Return the first byte that is asked for, and the one behind the last."""
        first, _, last = (self.headers["Range"] or "bytes=0-")[6:].partition("-")
        if not self.served_hub.serves_ranges:
            return 0, size
        return int(first), min(size, int(last) + 1) if last else size

    def send(
        self,
        content: bytes,
        headers: dict[str, str],
        name: str = "",
        begin: int = 0,
        end: int | None = None,
    ) -> None:
        size, content = len(content), content[begin:end]
        is_part = len(content) < size
        self.send_response(206 if is_part else 200)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        if is_part:
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(content) - 1}/{size}")
        self.end_headers()
        if self.command == "GET":
            self.served_hub.sent += len(content) if name else 0
            is_cut = name in self.served_hub.cut
            self.served_hub.cut.discard(name)
            self.wfile.write(content[: len(content) // 2] if is_cut else content)
            self.close_connection = self.close_connection or is_cut

    def refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
