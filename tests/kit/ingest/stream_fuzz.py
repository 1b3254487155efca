"""Let the real Source read thousands of hostile streams, in a process that may be killed.

    PYTHONPATH=.:tests python -m kit.ingest.stream_fuzz --cases 10000 --jobs 8   # from seed 0 on
    PYTHONPATH=.:tests python -m kit.ingest.stream_fuzz --seed 4711   # one case, with its outcome

What is a fault: a case that takes longer than the LIMIT, an exception that is no IngestError, a
reason with the password in it, a reader that a signal ends, file descriptors left open, and more
memory than MOST_MEMORY.
"""

import argparse
import faulthandler
import json
import os
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Self

from ingest.camera import Camera
from ingest.errors import IngestError
from ingest.frames import Frame, NoPicture
from ingest.live.source import CameraSource
from ingest.pictures.stills import StillSize, encode_still
from kit.ingest.clips import CODECS, write_elementary
from kit.ingest.hostile_bytes import ElementaryClip, split_stream
from kit.ingest.hostile_camera import HostileCamera, StreamCase, case_of

LIMIT = 120.0
MAX_MEMORY = 2**30
PASSWORD = "canary-secret"
_READ_FOR = 3.0
_MAX_SIGHTS = 300
_CLOSING = 30.0
_NAMES = {"h264": "H264", "h265": "H265", "mjpeg": "JPEG"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FuzzOutcome:
    """What a reader made of one case; memory is its resident peak, in bytes."""

    seed: int
    kind: str
    words: str
    pictures: int
    seconds: float
    memory: int
    descriptors: int
    fault: str = ""


@dataclass(slots=True, kw_only=True)
class StreamFuzzFigures:
    """What came of all cases."""

    outcomes: list[FuzzOutcome] = field(default_factory=list)

    @property
    def faults(self) -> list[FuzzOutcome]:
        return [each for each in self.outcomes if each.fault]

    def __str__(self) -> str:
        words = Counter(each.words for each in self.outcomes)
        first = {each.words: each.seed for each in reversed(self.outcomes)}
        slowest = max(self.outcomes, key=lambda each: each.seconds)
        largest = max(self.outcomes, key=lambda each: each.memory)
        lines = [
            f"cases={len(self.outcomes)} faults={len(self.faults)}",
            f"with pictures={sum(each.pictures > 0 for each in self.outcomes)}",
            f"slowest={slowest.seconds:.1f} s (seed {slowest.seed})",
            f"memory={largest.memory / 2**20:.0f} MiB (seed {largest.seed})",
            *(f"{count:6} {each} (seed {first[each]})" for each, count in words.most_common()),
            *(f"FAULT seed={each.seed} {each.kind}: {each.fault}" for each in self.faults),
        ]
        return "\n".join(lines)


class ReaderProcess:
    """The killable process: it takes `seed url transport` and gives an Outcome, line by line."""

    def __init__(self, errors: IO[bytes], limit: float = LIMIT) -> None:
        self._errors = errors
        self._limit = limit
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    def read(self, case: StreamCase, port: int) -> FuzzOutcome:
        """Let it read a case; where it hangs or ends it is another one the next time."""
        began = time.monotonic()
        process = self.process = self.process or self._start()
        assert process.stdin is not None and process.stdout is not None
        url = f"{case.scheme}://guard:{PASSWORD}@127.0.0.1:{port}/cam"
        print(case.seed, case.kind, url, case.transport, file=process.stdin, flush=True)
        is_ready, _, _ = select.select([process.stdout], [], [], self._limit)
        line = process.stdout.readline() if is_ready else ""
        if line:
            return FuzzOutcome(**json.loads(line))
        fault = f"it hung for {self._limit:.0f} s"
        if is_ready:
            fault = f"it ended: {process.wait()}"
        self._kill()
        return FuzzOutcome(
            seed=case.seed,
            kind=case.kind,
            words=fault,
            pictures=0,
            seconds=time.monotonic() - began,
            memory=0,
            descriptors=0,
            fault=fault,
        )

    def _start(self) -> subprocess.Popen[str]:
        tests = Path(__file__).parents[2]
        paths = [str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")]
        return subprocess.Popen(
            [sys.executable, "-m", "kit.ingest.stream_fuzz", "--read"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )

    def _kill(self) -> None:
        if self.process is not None:
            with self.process as process:
                process.kill()
            self.process = None


def read_all() -> None:
    """Be the reader: read what standard input names."""
    faulthandler.enable()
    for line in sys.stdin:
        seed, kind, url, transport = line.split()
        print(json.dumps(_read(int(seed), kind, url, transport)), flush=True)


def _read(seed: int, kind: str, url: str, transport: str) -> dict[str, object]:
    before, began = _descriptors(), time.monotonic()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is this case's
    words, fault, pictures = "read on", "", 0
    try:
        for pictures, _ in enumerate(_pictures(url, transport), 1):  # noqa: B007
            pass
    except IngestError as error:
        words = str(error)
        fault = "it shows the password" if PASSWORD in words else ""
    except BaseException as error:  # noqa: BLE001  # which is what is looked for
        words = fault = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - began
    left = _left_open(before)
    memory = _peak()
    fault = fault or (f"{left} descriptors are left open" if left > 0 else "")
    fault = fault or (f"{memory >> 20} MiB of memory" if memory > MAX_MEMORY else "")
    return {
        "seed": seed,
        "kind": kind,
        "words": words.replace(url.rpartition(":")[2].partition("/")[0], "PORT"),
        "pictures": pictures,
        "seconds": round(seconds, 2),
        "memory": memory,
        "descriptors": before,
        "fault": fault,
    }


def _pictures(url: str, transport: str) -> Iterator[bytes]:
    camera = Camera(name="hostile", url=url, transport=transport)
    with CameraSource(camera) as source:
        until, sizes = time.monotonic() + _READ_FOR, StillSize(camera)
        for number, sight in enumerate(source.frames()):
            frame = sight if isinstance(sight, NoPicture) else sight.decode()
            if isinstance(frame, Frame):
                size = sizes.update(frame.picture, frame.pixel_aspect)
                yield encode_still(frame.picture, camera, size).data if number % 10 == 0 else b""
            if number > _MAX_SIGHTS or time.monotonic() > until:
                return


def _left_open(before: int) -> int:
    """Return how many descriptors stay open, some time after they could have been closed."""
    deadline = time.monotonic() + _CLOSING
    while (left := _descriptors() - before) > 0 and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _peak() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def clips_in(folder: Path) -> tuple[dict[str, ElementaryClip], dict[str, bytes]]:
    """Return a small clip of each codec, and each as files that HTTP may carry."""
    clips, files = {}, {}
    for name, codec in CODECS.items():
        data = write_elementary(folder / f"small.{name}", codec, size=(64, 48)).read_bytes()
        clips[name] = split_stream(_NAMES[name], data)
        files[f"video/{name}"] = data
    return clips, files


def fuzz(seeds: Sequence[int], errors: IO[bytes], jobs: int = 1) -> StreamFuzzFigures:
    """Let so many readers at a time read the cases of all seeds."""
    with TemporaryDirectory() as name:
        clips, files = clips_in(Path(name))

        def read(some: Sequence[int]) -> list[FuzzOutcome]:
            with HostileCamera(clips, files) as camera, ReaderProcess(errors) as reader:
                return [outcome_of(case_of(seed, clips), camera, reader) for seed in some]

        with ThreadPoolExecutor(jobs) as pool:
            shares = pool.map(read, [seeds[job::jobs] for job in range(jobs)])
            return StreamFuzzFigures(outcomes=[each for share in shares for each in share])


def outcome_of(case: StreamCase, camera: HostileCamera, reader: ReaderProcess) -> FuzzOutcome:
    """Let a reader read one case of the camera."""
    camera.serve(case)
    outcome = reader.read(case, camera.port)
    if outcome.fault:
        print(outcome, file=sys.stderr, flush=True)
    for failure in camera.failures:
        raise failure
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, help="one case alone")
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        return read_all()
    seeds: Sequence[int] = range(arguments.first, arguments.first + arguments.cases)
    if arguments.seed is not None:
        seeds = [arguments.seed]
    began = time.monotonic()
    figures = fuzz(seeds, sys.stderr.buffer, arguments.jobs)
    print(figures)
    print(f"{len(figures.outcomes) / (time.monotonic() - began):.1f} cases a second")
    sys.exit(bool(figures.faults))


if __name__ == "__main__":
    main()
