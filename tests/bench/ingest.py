"""What watching cameras costs.

python tests/bench/ingest.py cpu [--streams hd-h264-1s ...] [--rounds 3]
"""

import argparse
import sys

sys.path.append(sys.path.pop(0))  # this file has the name of a package

import ingest_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    cpu = commands.add_parser("cpu", help="CPU time against bare loops")
    ingest_cpu.add_options(cpu)
    options = parser.parse_args()
    sys.exit(not ingest_cpu.report(options.streams, options.rounds, options.warm, options.seconds))


if __name__ == "__main__":
    main()
