"""Simulates the warning of copies: its false alarms, and the copies that it notices.

    python benchmarks/copies.py [--sets 50]

Training images, held-out images and samples are normal vectors of the same distribution; of the
samples a share are copies of training images, with noise. Prints the share of simulated sets with a
warning, with a held-out set of the size of the training set and without one
(gan_vkd/evaluation/few.py). Without copies ten times as many sets are simulated. Seed 0.
"""

import argparse

import numpy as np

from gan_vkd.evaluation.few import warnings
from gan_vkd.evaluation.measures import Neighbourhoods, memorisation_rate
from gan_vkd.report.tables import Row, markdown

SAMPLES = 1000


def warned(random: np.random.Generator, images: int, d: int, copied: float) -> tuple[bool, bool]:
    """Whether a simulated set gives a warning: with a held-out set, and without one."""
    training = random.normal(size=(images, d))
    samples = random.normal(size=(SAMPLES, d))
    copies = random.random(SAMPLES) < copied
    noise = 0.1 * random.normal(size=(SAMPLES, d))
    samples[copies] = (training[random.integers(images, size=SAMPLES)] + noise)[copies]
    known = Neighbourhoods(training)
    rate = {"memorised": memorisation_rate(samples, known), "num_samples": SAMPLES}
    by_chance = memorisation_rate(random.normal(size=(images, d)), known)
    heldout = rate | {"memorised_by_chance": by_chance, "reference_images": images}
    left_out = rate | {"memorised_left_out": known.left_out_rate, "training_images": images}
    return "copies" in warnings(heldout), "copies" in warnings(left_out)


def row(images: int, d: int, sets: int) -> Row:
    random, found = np.random.default_rng(0), {"images": str(images), "dimensions": str(d)}
    for copied in (0.0, 0.25, 0.5, 0.75):
        trials = sets if copied else 10 * sets
        shares = np.mean([warned(random, images, d, copied) for _ in range(trials)], 0)
        found[f"{copied:.0%} copies"] = " / ".join(f"{share:.1%}" for share in shares)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", type=int, default=50)
    sets = parser.parse_args().sets
    print(markdown([row(images, d, sets) for images in (50, 200, 500) for d in (8, 64)]))


if __name__ == "__main__":
    main()
