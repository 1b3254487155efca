"""How long the windows of an analyzer that is killed -9 wait for its heir: kill to first commit.

Three analyzers on one broker of Kafka, eight cameras; the killed one is started again at once,
except with `--alone`. Of each of its partitions that another took over, it is measured when its
position went on.

    python tests/bench/handover.py [--kills 10] [--session SECONDS] [--alone] [--seed N]
"""

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from kit.waiting import wait_for

# Before this folder, in which a file would stand for the package.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from analyzer.worker import GROUP, AnalyzerWorker
from kit.chaos.analyzer_kills import (
    ANALYZERS,
    CAMERAS,
    FORK_SERVER,
    CommittedOffsets,
    WindowProducer,
    a_watcher,
)
from kit.kafka.broker import run_broker
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.log import KafkaLog
from storage.records.topics import WINDOWS

PACE = 4.0


def analyze(kafka_config: KafkaConfig, folder: Path) -> None:
    """Answer until killed, and write down which partitions are owned."""
    import torch

    torch.set_num_threads(1)
    worker = AnalyzerWorker(KafkaLog(kafka_config), a_watcher(), lambda _: None)
    threading.Thread(target=note, args=(worker, folder), daemon=True).start()
    worker.run(threading.Event())


def note(worker: AnalyzerWorker, folder: Path) -> None:
    draft = folder / f".{os.getpid()}"
    while True:
        draft.write_text(" ".join(sorted(worker._membership.partitions())))
        draft.rename(folder / str(os.getpid()))
        time.sleep(0.05)


class Analyzers:
    def __init__(self, kafka_config: KafkaConfig, folder: Path) -> None:
        self.folder = folder
        self._place = kafka_config
        self.processes = [self._start() for _ in range(ANALYZERS)]

    def owner(self, partition: str) -> int:
        for process in self.processes:
            file = self.folder / str(process.pid)
            if file.exists() and partition in file.read_text().split():
                return process.pid or 0
        return 0

    def kill(self, number: int, *, again: bool) -> set[str]:
        """Kill one; return what it owned."""
        process = self.processes[number]
        file = self.folder / str(process.pid)
        os.kill(process.pid or 0, signal.SIGKILL)
        owned = set(file.read_text().split())
        file.unlink()
        process.join()
        if again:
            self.processes[number] = self._start()
        return owned

    def start_missing(self) -> None:
        for number, process in enumerate(self.processes):
            if not process.is_alive():
                self.processes[number] = self._start()

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def _start(self):  # type: ignore[no-untyped-def]
        process = FORK_SERVER.Process(target=analyze, args=(self._place, self.folder), daemon=True)
        process.start()
        return process


def handover(log: KafkaLog, analyzers: Analyzers, number: int, *, again: bool) -> list[float]:
    """Kill one analyzer; return the seconds until each of its partitions went on elsewhere."""
    killed_at = time.monotonic()
    busy = {log.partition_for(WINDOWS, camera) for camera in CAMERAS}
    waiting = analyzers.kill(number, again=again) & busy
    begun = {partition: log.committed(GROUP, partition) for partition in waiting}
    took = []
    while waiting:
        time.sleep(0.02)
        for partition in list(waiting):
            if log.committed(GROUP, partition) > begun[partition]:
                waiting.remove(partition)
                if analyzers.owner(partition):
                    took.append(time.monotonic() - killed_at)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--session", type=float, default=KafkaConfig(bootstrap=()).session)
    parser.add_argument("--alone", action="store_true", help="start no other in its place")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="longwatch-bench-") as folder, run_broker() as broker:
        kafka_config = broker.place(partitions=6, session=options.session)
        log = KafkaLog(kafka_config)
        cut, watching = WindowProducer(log, PACE), CommittedOffsets(log)
        analyzers = Analyzers(kafka_config, Path(folder))
        took = list[float]()
        try:
            for _ in range(options.kills):
                wait_for(lambda: all(map(analyzers.owner, log.partitions(WINDOWS))), 120)
                wait_for(lambda: _is_even(Path(folder)), 120)
                time.sleep(rng.uniform(PACE, 2 * PACE))
                found = handover(log, analyzers, rng.randrange(3), again=not options.alone)
                print("handover", *(f"{each:.1f}" for each in found), flush=True)
                took += found
                analyzers.start_missing()
        finally:
            cut.stop()
            watching.stop()
            analyzers.end()
            log.close()
    print(
        f"seed={options.seed} session={options.session:g} handovers={len(took)}"
        f" median={statistics.median(took):.1f} most={max(took):.1f}"
        f" went_back={watching.went_back}"
    )


def _is_even(folder: Path) -> bool:
    """Return whether each analyzer owns as many partitions."""
    files = [each for each in folder.iterdir() if not each.name.startswith(".")]
    return [len(each.read_text().split()) for each in files] == [2] * ANALYZERS


if __name__ == "__main__":
    main()
