"""Three times as many windows as can be read, for an hour of virtual time; then without shedding.

Twelve cameras with windows of 8 s, two of them with an open incident; the real worker over a log
in memory, and a model that takes its time.

    python tests/bench/overload.py [--hours 1] [--factor 3] [--json]
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from kit.simulation.overload_simulation import OverloadFigures, OverloadSimulation, without_shedding

CAMERAS, WATCHED = 12, (0, 5)


def figures_of(figures: OverloadFigures) -> dict[str, float]:
    others = [name for n in range(CAMERAS) if n not in WATCHED for name in [f"camera-{n}"]]
    early = figures.kilobytes[len(figures.kilobytes) // 4]
    return {
        "windows": figures.windows,
        "analysed": sum(figures.analysed.values()),
        "lag_p50": figures.lag(0.5),
        "lag_p99": figures.lag(0.99),
        "open_covered": round(min(figures.covered(f"camera-{n}") for n in WATCHED), 3),
        "others_covered": round(min(map(figures.covered, others)), 3),
        "longest_gap_s": round(max(figures.gaps), 1),
        "most_held": figures.max_waiting,
        "resident_growth": round(figures.kilobytes[-1] / early - 1, 4),
        "unexplained_s": figures.unexplained,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--factor", type=float, default=3.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seconds = 3600 * options.hours
    runs = {
        "shedding": OverloadSimulation(CAMERAS, options.factor, WATCHED),
        "without": without_shedding(OverloadSimulation(CAMERAS, options.factor, WATCHED)),
    }
    for name, run in runs.items():
        found = figures_of(run.run(seconds))
        line = json.dumps({"run": name} | found) if options.json else None
        print(line or f"{name}: " + " ".join(f"{key}={value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
