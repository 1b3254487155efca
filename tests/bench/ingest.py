"""What watching cameras costs: CPU, memory, and how long many take to connect.

    python tests/bench/ingest.py cpu [--streams hd-h264-1s ...] [--rounds 3]
    python tests/bench/ingest.py memory [--stream hd] [--cameras 8] [--ways forked before]
    python tests/bench/ingest.py start [--cameras 64] [--ways forked before]

`ingest_cpu` and `ingest_processes` say how each is measured.
"""

import argparse
import sys
from pathlib import Path

# Before this folder, in which a file would stand for a package.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from bench import ingest_cpu, ingest_processes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True, dest="command")
    ingest_cpu.add_options(commands.add_parser("cpu", help="CPU time against bare loops"))
    for name, title in (("memory", "PSS of a process"), ("start", "seconds to connect")):
        ingest_processes.add_options(commands.add_parser(name, help=title))
    options = parser.parse_args()
    if options.command != "cpu":
        ingest_processes.report(options.command, options)
        return
    sys.exit(not ingest_cpu.report(options.streams, options.rounds, options.warm, options.seconds))


if __name__ == "__main__":
    main()
