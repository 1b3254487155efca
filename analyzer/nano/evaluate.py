"""Measure a checkpoint on fresh scenes, through the same path as live video.

`python -m analyzer.nano.evaluate` prints one JSON line: the area under the ROC curve of "is
anything unusual happening?" and of each kind of event, over scenes never trained on. A scene
lasts two windows and is judged at the end of the second; as in the lessons, one that shows an
event for less than two seconds of it is passed over, for neither answer would be right.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import count, islice

import numpy as np
from rich.progress import track

from analyzer.nano.lessons import ABOUT, ANYTHING, VISIBLE, seen
from analyzer.nano.scenes import Kind, Scene, random_scene
from analyzer.videoxl2.checkpoint import load_model
from analyzer.videoxl2.kv import KVChunk
from analyzer.videoxl2.speaker import Speaker

FRESH = 1_000_000_000
"""Seeds from here on are never trained on."""
WINDOW = 16


def auc(margins: Sequence[float], truths: Sequence[bool]) -> float:
    """Return the area under the ROC curve: how often a true one is above a false one."""
    truth = np.asarray(truths)
    yes, no = np.asarray(margins)[truth], np.asarray(margins)[~truth]
    above = (yes[:, None] > no[None, :]).mean() + (yes[:, None] == no[None, :]).mean() / 2
    return float(above)


def watch(speaker: Speaker, scene: Scene) -> list[float]:
    """Return the margins, anything first and then each kind, at the end of the second window."""
    behind = list[KVChunk]()
    background = None
    for start in (0, WINDOW):
        times = range(start, start + WINDOW)
        jpegs = [scene.jpeg(t, 256, 85) for t in times]
        chunk, background = speaker.watch(jpegs, times, background, behind)
        behind.append(chunk)
    return speaker.margins([ANYTHING[0], *(ABOUT[kind][0] for kind in Kind)], behind)


def fresh_scenes() -> Iterator[Scene]:
    """Yield scenes never trained on, in which it is clear what can be seen."""
    for seed in count(FRESH):
        scene = random_scene(seed, 2 * WINDOW, rate=0.45)
        if all(s >= VISIBLE for s in seen(scene.events, WINDOW, 2 * WINDOW).values()):
            yield scene


def evaluate(speaker: Speaker, seeds: int) -> dict[str, float]:
    """Return the areas under the curves over so many fresh scenes."""
    margins, truths = [], []
    for scene in track(islice(fresh_scenes(), seeds), "evaluating", total=seeds):
        seconds = seen(scene.events, WINDOW, 2 * WINDOW)
        present = [kind in seconds for kind in Kind]
        margins.append(watch(speaker, scene))
        truths.append([any(present), *present])
    names = ["anything", *Kind]
    columns = zip(names, zip(*margins, strict=True), zip(*truths, strict=True), strict=True)
    return {str(name): round(auc(m, t), 4) for name, m, t in columns if 0 < sum(t) < len(t)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano", help="nano or a folder")
    parser.add_argument("--seeds", type=int, default=200)
    arguments = parser.parse_args()
    speaker = load_model(arguments.model, "cpu")
    areas = evaluate(speaker, arguments.seeds)
    print(json.dumps({"model": speaker.name, "seeds": arguments.seeds, "auc": areas}))
