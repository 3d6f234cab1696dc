"""Prints the number of iterations that a run can train within its share of the time.

python scripts/iterations_that_fit.py TRIAL --took SECONDS --share SECONDS [--evaluations N]
"""

import argparse
import json
import math
import sys
from pathlib import Path

from gan_vkd.game.settings import load_settings

RESERVE = 0.05  # of the share: for records, sample grids and checkpoints


def iterations_that_fit(
    times: list[tuple[int, float]],
    took: float,
    share: float,
    every: float,
    evaluations: int = 0,
) -> int:
    """Returns the largest number of iterations n that, with start-up and evaluations, fits.

    The trial's time outside of its iterations counts as start-up plus one evaluation. It is added
    once, and once more per evaluation, so that n is too small rather than too large. RESERVE is
    left free.

    Args:
        times: (iteration, seconds of training) of the trial's records; the first ends the warm-up.
        took: wall-clock seconds of the trial, with its start-up and its one evaluation.
        share: seconds that a run may take.
        every: iterations between two evaluations; infinite for none.
        evaluations: their number, where they are not every so many iterations.

    Raises:
        ValueError: not even one iteration fits.
    """
    (first, begun), (last, ended) = times[0], times[-1]
    pace = (ended - begun) / (last - first)
    beside = max(took - last * pace, 0.0)
    left = share * (1 - RESERVE) - beside * (1 + evaluations)
    count = int(left / (pace + beside / every))
    if count < 1:
        raise ValueError(
            f"a run may take {share:.0f} s, and start-up and evaluation alone take {beside:.0f} s: "
            "set more minutes"
        )
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trial", type=Path, help="the folder of a short run")
    parser.add_argument("--took", type=float, required=True, help="wall-clock seconds of the trial")
    parser.add_argument("--share", type=float, required=True, help="seconds that a run may take")
    parser.add_argument(
        "--evaluations", type=int, help="of a run; default: one every evaluate.every iterations"
    )
    given = parser.parse_args()
    lines = (given.trial / "metrics.jsonl").read_text().splitlines()
    times = [(record["iteration"], record["seconds"]) for record in map(json.loads, lines)]
    every, number = load_settings(given.trial).evaluate.every, given.evaluations or 0
    try:
        every = math.inf if number else every
        print(iterations_that_fit(times, given.took, given.share, every, number))
    except ValueError as error:
        sys.exit(f"{given.trial}: {error}")


if __name__ == "__main__":
    main()
