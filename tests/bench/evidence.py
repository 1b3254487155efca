"""How soon the stills of an incident are on disk, while findings are judged.

    python tests/bench/evidence.py [--incidents 50] [--cameras 20] [--every 0] [--json]

Each camera puts a window of 16 stills of 30 kB on the log every second, all in turn, and findings
about it; now and then one begins an incident. Measured from the append of that finding until the
folder of the window at its beginning is there. With `--every 60` the stills are taken by a job
once a minute, as they were before; the default is the thread of its own.
"""

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles
from threading import Event

from kit.waiting import wait_for

# Before this folder, in which a file stands for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from alerts.evidence.keeper import EvidenceKeeper
from alerts.rules.rule import Rule
from alerts.worker import AlertsWorker
from kit.storage.fixtures import a_finding, a_window
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.log.sqlite.log import PARTITIONS, SqliteLog
from storage.records.records import Finding, Still, Window
from storage.records.topics import FINDINGS, WINDOWS
from storage.records.wire import encode_finding, encode_window

LENGTH = timedelta(seconds=16)
JPEG = bytes(30_000)
WANTED = 1.5


def window_of(camera: str, end: datetime) -> Window:
    """Return a window of 16 stills that ends at an instant."""
    begin = end - LENGTH
    stills = tuple(
        Still(at=begin + timedelta(seconds=n), jpeg=JPEG, width=640, height=360) for n in range(16)
    )
    return replace(a_window(0, camera), stills=stills)


def finding_of(window: Window, score: float) -> Finding:
    """Return what was found in a window."""
    start, end = window.start, window.end
    return replace(a_finding(0, score, window.camera), window_id=window.id, start=start, end=end)


def film(log: SqliteLog, cameras: int, incidents: int) -> dict[str, float]:
    """Let cameras film until so many incidents have begun and a round more; return when."""
    began = dict[str, float]()
    turn, last = 0, sys.maxsize
    while turn < last:
        camera = f"camera-{turn % cameras}"
        window = window_of(camera, datetime.now(UTC))
        log.append(WINDOWS, camera, encode_window(window))
        # Every camera first has a window before; then alarm and quiet alternate.
        is_alarm = turn // cameras % 2 == 1 and len(began) < incidents
        finding = finding_of(window, 0.9 if is_alarm else 0.1)
        if is_alarm:
            began[finding.id] = time.time()
            last = turn + cameras + 1 if len(began) == incidents else last
        log.append(FINDINGS, camera, encode_finding(finding))
        turn += 1
        time.sleep(1 / cameras)
    return began


def run_every(keeper: EvidenceKeeper, seconds: float, stop: Event) -> None:
    """Take stills once in so many seconds."""
    while not stop.wait(seconds):
        keeper.run_once(datetime.now(UTC))


def measured(folder: Path, cameras: int, incidents: int, every: float) -> list[float]:
    """Return the seconds from each finding that began an incident to its stills."""
    log = SqliteLog(folder / "log.db", PARTITIONS)
    engine = open_database(f"sqlite:///{folder / 'longwatch.db'}")
    store, evidence, stop = AlertStore(engine), folder / "evidence", Event()
    rule = Rule(name="bag-left", question="bag", above=0.8, below=0.5)
    keeper = EvidenceKeeper(log, store, evidence)
    with ThreadPoolExecutor() as threads:
        worker = threads.submit(AlertsWorker(log, store, [rule], lambda _: None).run, stop)
        if every:
            taking = threads.submit(run_every, keeper, every, stop)
        else:
            taking = threads.submit(keeper.run, stop)
        try:
            began = film(log, cameras, incidents)
            wait_for(lambda: len(list(evidence.glob("*/at"))) >= incidents, 10 + 4 * every)
        finally:
            stop.set()
        worker.result()
        taking.result()
    by_finding = {each.evidence[0]: each.id for each in store.incidents()}
    there = {id: (evidence / str(by_finding[id]) / "at").stat().st_ctime for id in began}
    engine.dispose()
    log.close()
    return [there[id] - at for id, at in began.items()]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--incidents", type=int, default=50)
    parser.add_argument("--cameras", type=int, default=20)
    parser.add_argument("--every", type=float, default=0.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        took = measured(Path(folder), options.cameras, options.incidents, options.every)
    cuts = quantiles(took, n=20)
    figures = {"incidents": len(took), "p50": cuts[9], "p95": cuts[18], "most": max(took)}
    if options.json:
        print(json.dumps(figures))
        return
    print(f"stills on disk after {cuts[9]:.2f} s (p50), {cuts[18]:.2f} s (p95), {max(took):.2f} s")
    print(f"(most), of {len(took)} incidents on {options.cameras} cameras; wanted: {WANTED} s")


if __name__ == "__main__":
    main()
