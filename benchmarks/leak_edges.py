"""Measures how much greyer the edges of samples are than their middle, for runs of `vkd train`.

    python benchmarks/leak_edges.py RUN ...

Prints the mean distance from mid-grey in the outermost rows and columns over that in the middle
half of each side: of the held-out images, and of 1,000 samples of each run's EMA generator at its
last checkpoint. Translation that leaks makes edges grey: the ratio sees it in the mean of many
samples, before any single one counts as leaked (gan_vkd/evaluation/leak.py).
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from gan_vkd.data.sets import load_heldout_set
from gan_vkd.evaluation.leak import GREY
from gan_vkd.networks.sampling import draw_samples
from gan_vkd.networks.standing import as_sampled
from gan_vkd.run import Run
from gan_vkd.runtime.checkpoint import load_state

SAMPLES = 1000


def edges(images: Tensor) -> float:
    """Of uint8 images (N, C, H, W), the ratio of their distances from grey at the edges and in the
    middle."""
    contrast = (images.float() - GREY).abs().mean((0, 1))
    height, width = contrast.shape
    outermost = [contrast[0], contrast[-1], contrast[:, 0], contrast[:, -1]]
    middle = contrast[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return float(torch.stack([line.mean() for line in outermost]).mean() / middle.mean())


def samples(run: Run) -> Tensor:
    """Of the EMA generator at the last checkpoint: uint8 (SAMPLES, C, H, W)."""
    settings = run.settings()
    generator, facts = run.load_generator("cpu")
    generator.load_state_dict(load_state(run.checkpoints()[-1])["trained"]["average"])
    generator = as_sampled(generator, facts["shares"], settings.evaluate)
    return draw_samples(generator, facts["shares"], SAMPLES, 100, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    runs = [Run(path) for path in parser.parse_args().runs]
    heldout = load_heldout_set(runs[0].settings().data)
    if heldout is not None:
        print(f"held-out images: {edges(heldout.images):.3f}", flush=True)
    for run in runs:
        print(f"{run.path.name}: {edges(samples(run)):.3f}", flush=True)


if __name__ == "__main__":
    main()
