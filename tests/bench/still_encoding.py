"""What a window of stills costs: decoded one by one by Pillow as at first, and as now.

The stills are 640x480 JPEGs with the noise of a sensor, synthesised or cut from a video. Both ways
alternate in one process. `seen` is a window from JPEGs to visual tokens, `answered` is also read
behind 64 seconds and asked one question, and `batch seen` is a window of each of eight cameras,
decoded beside a card while the batch before is seen. `off` is how far the stills are from those of
Pillow, in levels of 255, on average and at most.

    python tests/bench/still_encoding.py [--model nano] [--device auto] [--video vtest.avi] [--json]
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from analyzer.kv.arena.arena import AnyChunk
from analyzer.kv.budget import MAX_WINDOWS_PER_STEP
from analyzer.kv.encoded import Background
from analyzer.models.loading import load_model
from analyzer.models.messages import WindowRun
from analyzer.models.runner import ModelRunner
from analyzer.models.stills.decoding import DecodedStills, StillDecoder
from analyzer.nano.workshop.prefill import encode_and_prefill

BICUBIC = Image.Resampling.BICUBIC
STILLS, WINDOWS, SIZE, NOISE, QUALITY = 16, 4, (640, 480), 3.0, 85
ASK = "Is anything unusual happening?"
Stills = Sequence[bytes]


class PillowDecoder(StillDecoder):
    """Decodes as at first: Pillow, one thread, nothing ahead."""

    def prepare(self, jpegs: Stills) -> None:
        pass

    def decode(self, windows: Sequence[Stills]) -> list[DecodedStills]:
        return [DecodedStills(levels_NCHW=self._window(jpegs), corrupt=0) for jpegs in windows]

    def _window(self, jpegs: Stills) -> torch.Tensor:
        height, width = self._size
        opened = (Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in jpegs)
        stills_NHWC = np.stack(
            [np.asarray(each.resize((width, height), BICUBIC)) for each in opened]
        )
        return torch.from_numpy(stills_NHWC).to(self._device).permute(0, 3, 1, 2)


class EncodingBench:
    """A speaker that decodes in either way, and the windows of a camera."""

    def __init__(self, runner: ModelRunner, windows: Sequence[Stills], ahead: bool) -> None:
        self.speaker, self.windows = runner, windows
        self.now, self.ahead = runner.still_decoder, ahead
        self.before = PillowDecoder(*self.now._size, self.now._device)
        turned = [
            [*jpegs[n:], *jpegs[:n]] for n in range(MAX_WINDOWS_PER_STEP // 2) for jpegs in windows
        ]
        self.batches = cycle([turned[:MAX_WINDOWS_PER_STEP], turned[MAX_WINDOWS_PER_STEP:]])
        self.held = list[AnyChunk]()
        self.background: Background | None = None
        for nth, jpegs in enumerate(windows):
            chunk, self.background = self._watch(jpegs, nth, self.held)
            self.held.append(chunk)

    def decoded(self) -> None:
        self.speaker.still_decoder.decode([self.windows[0]])
        finish()

    def seen(self) -> None:
        self.speaker.encode([WindowRun([self.windows[0]], self.background)])

    def answered(self) -> None:
        chunk, _ = self._watch(self.windows[0], len(self.windows), self.held)
        self.speaker.margins([ASK], [*self.held[1:], chunk])

    def batch_seen(self) -> None:
        """See a batch, while the next one is decoded where that is done."""
        current, following = next(self.batches), next(self.batches)
        next(self.batches)
        if self.ahead or self.speaker.still_decoder.can_decode_ahead:
            for jpegs in (*current, *following):
                self.speaker.prepare(jpegs)
        self.speaker.encode([WindowRun([jpegs], self.background) for jpegs in current])

    def off(self) -> tuple[float, int]:
        """Return how far stills are from Pillow's: on average, and at most."""
        ours, told = (way.decode(self.windows) for way in (self.now, self.before))
        pairs = zip(ours, told, strict=True)
        off = torch.cat([(a.levels_NCHW.int() - b.levels_NCHW.int()).abs() for a, b in pairs])
        return round(off.float().mean().item(), 4), int(off.max())

    def row(self, work: Callable[[], None], rounds: int) -> dict[str, float]:
        """Return the median milliseconds of some work before and now, and those of all cores."""
        took: dict[str, list[float]] = {"before": [], "now": []}
        cores: dict[str, list[float]] = {"before": [], "now": []}
        for _ in range(rounds + 2):
            for way, each in took.items():
                self.speaker.still_decoder = getattr(self, way)
                began, used = time.perf_counter(), time.process_time()
                work()
                each.append((time.perf_counter() - began) * 1000)
                cores[way].append((time.process_time() - used) * 1000)
        before, now = (median(each[2:]) for each in took.values())
        row = {"before": before, "now": now, "ratio": before / now}
        row |= {f"{way}, CPU": median(each[2:]) for way, each in cores.items()}
        return {name: round(value, 2) for name, value in row.items()}

    def _watch(
        self, jpegs: Stills, nth: int, held: Sequence[AnyChunk]
    ) -> tuple[AnyChunk, Background | None]:
        seconds = range(STILLS * nth, STILLS * (nth + 1))
        return encode_and_prefill(self.speaker, jpegs, seconds, self.background, held)


def finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def street(stills: int) -> list[np.ndarray]:
    """Return pictures of a rough ground and somebody who walks over it."""
    coarse = np.random.default_rng(0).integers(40, 220, (60, 80, 3), dtype=np.uint8)
    pictures = [np.array(Image.fromarray(coarse).resize(SIZE, BICUBIC)) for _ in range(stills)]
    for n, picture in enumerate(pictures):
        picture[200:360, 8 * n : 8 * n + 60] = (60, 40, 30)
    return pictures


def cut(path: Path, stills: int) -> list[np.ndarray]:
    """Return a picture a second of a video."""
    import av

    with av.open(str(path)) as container:
        rate = round(float(container.streams.video[0].average_rate or 1))
        frames = (frame for n, frame in enumerate(container.decode(video=0)) if n % rate == 0)
        images = [frame.to_image() for frame, _ in zip(frames, range(stills), strict=False)]
    return [np.asarray(image.resize(SIZE, BICUBIC)) for image in images]


def as_sent(picture: np.ndarray, seed: int) -> bytes:
    """Return the JPEG of a picture, with the noise of a sensor."""
    noise, file = np.random.default_rng(seed).normal(0, NOISE, picture.shape), io.BytesIO()
    Image.fromarray((picture + noise).clip(0, 255).astype(np.uint8)).save(
        file, "JPEG", quality=QUALITY
    )
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--video", type=Path, help="cut the stills from this, not synthesise them")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--ahead", action="store_true", help="decode ahead on a CPU, too")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    many = STILLS * WINDOWS
    pictures = cut(options.video, many) if options.video else street(many)
    stills = [as_sent(picture, seed) for seed, picture in enumerate(pictures)]
    windows = [stills[at : at + STILLS] for at in range(0, many, STILLS)]
    bench = EncodingBench(load_model(options.model, options.device), windows, options.ahead)
    works = {
        "decoded": bench.decoded,
        "seen": bench.seen,
        "answered": bench.answered,
        "batch seen": bench.batch_seen,
    }
    rows = {name: bench.row(work, options.rounds) for name, work in works.items()}
    mean, most = bench.off()
    if options.json:
        print(json.dumps({"ms": rows, "off": {"mean": mean, "most": most}}))
        return
    table = Table("ms", *rows["seen"])
    for name, row in rows.items():
        table.add_row(name, *(str(value) for value in row.values()))
    Console().print(table, f"off by {mean} levels on average, {most} at most", sep="\n")


if __name__ == "__main__":
    main()
