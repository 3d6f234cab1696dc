"""Times the parts of an evaluation of 10,000 samples: python benchmarks/evaluation.py

digits: as in configs/quickstart.yaml, with a classifier of two iterations as the judge.
cifar10: configs/sizes/cpu.yaml with a ResNet-56 as the judge; --shared is the folder of both.
wide: random features as wide as Inception's, without networks; on a CPU a quarter of the samples.

The generators are untrained. The distances of clean-fid are timed beside ours. Each part is run
once; seconds of the clock are followed by those of the processor.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from cleanfid import fid as cleanfid
from cleanfid.resize import build_resizer
from timing import machine

from gan_vkd.data.settings import DataSettings
from gan_vkd.evaluation.distances import Gaussian, frechet_distance, kernel_distance
from gan_vkd.evaluation.evaluator import Evaluator, isolated_randomness
from gan_vkd.evaluation.judge import resized
from gan_vkd.evaluation.measures import (
    Neighbourhoods,
    density_coverage,
    memorisation_rate,
    precision_recall,
)
from gan_vkd.game.build import build_trainer
from gan_vkd.game.settings import Settings, load_settings
from gan_vkd.networks.sampling import draw_samples
from gan_vkd.networks.standing import as_sampled
from gan_vkd.teachers.teach import TeachSettings, teach

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SAMPLES, WIDTH, IMAGES = 10_000, 2048, 50
T = TypeVar("T")


class Parts:
    """A table of one case, printed row by row."""

    def __init__(self, case: str) -> None:
        print(f"\n| {case} | seconds |\n|---|---|")

    def __call__(self, name: str, compute: Callable[[], T]) -> T:
        """Prints the time of `compute` and returns its result."""
        _finish()
        start, used = time.perf_counter(), time.process_time()
        result = compute()
        _finish()
        seconds, used = time.perf_counter() - start, time.process_time() - used
        print(f"| {name} | {seconds:.2f} ({used:.2f}) |", flush=True)
        return result


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compare(part: Parts, fake: np.ndarray, real: np.ndarray, device: str) -> None:
    """Times all that is computed from the features (N, d) of samples and reference."""
    gaussian = part("Frechet, the reference, once", lambda: Gaussian.of(real, device))
    found = part("Frechet distance", lambda: frechet_distance(fake, gaussian))
    theirs = part("Frechet distance, clean-fid", lambda: cleanfid.fid_from_feats(fake, real))
    kernel = part("kernel distance", lambda: kernel_distance(fake, real, 0, device))
    with isolated_randomness(0):
        other = part("kernel distance, clean-fid", lambda: cleanfid.kernel_distance(real, fake))
    known = Neighbourhoods(real, device)
    part("radii of the reference, once", lambda: [known.radii(k) for k in (1, 3, 5)])
    part("precision, recall", lambda: precision_recall(known, fake))
    part("density, coverage", lambda: density_coverage(known, fake))
    part("memorisation rate", lambda: memorisation_rate(fake, known))
    print(f"\nRelative difference from clean-fid: Frechet {found / theirs - 1:.1e}, ", end="")
    print(f"kernel {kernel / other - 1:.1e}")


def evaluate(case: str, settings: Settings, device: str) -> None:
    """Times the parts of an evaluation by the settings, with an untrained generator."""
    part, s, shares = Parts(case), settings.evaluate, [0.1] * 10
    torch.manual_seed(0)
    generator = build_trainer(settings, 10, device).ema.generator
    evaluator = part(
        "reference and training set, once", lambda: Evaluator(s, settings.data, device)
    )
    sampled = part("standing statistics", lambda: as_sampled(generator, shares, s))
    images = part("samples", lambda: draw_samples(sampled, shares, SAMPLES, s.batch_size, s.seed))
    judge = evaluator.extractor
    fake = part("features", lambda: judge.features(images, s.batch_size))
    compare(part, fake, evaluator.real[0], device)


def digits(device: str, shared: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "judge.safetensors"
        teach(TeachSettings(data=DataSettings(source="digits"), iterations=2), file)
        chosen = [f"evaluate.features.weights={file}", f"evaluate.num_samples={SAMPLES}"]
        evaluate("digits, classifier", load_settings(CONFIGS / "quickstart.yaml", chosen), device)


def cifar10(device: str, shared: Path) -> None:
    images, weights = shared / "data/cifar10-subset", shared / "weights/cifar_resnet"
    judge = f"{{name: cifar_resnet56, weights: {weights / 'resnet56-4bfd9763.th'}}}"
    chosen = [
        f"data.source={images / 'train.zip'}",
        f"data.heldout={images / 'test.zip'}",
        "data.fraction=null",
        f"evaluate.features={judge}",
        f"evaluate.num_samples={SAMPLES}",
    ]
    settings = load_settings(CONFIGS / "cifar10_10pct+sizes/cpu", chosen)
    evaluate("CIFAR-10, ResNet-56", settings, device)


def wide(device: str, shared: Path) -> None:
    count = SAMPLES // 4 if device == "cpu" else SAMPLES
    scales = np.linspace(1, 0, WIDTH) ** 6 + 1e-3  # few directions dominate, as in a network
    random = np.random.default_rng(0)
    fake, real = (random.normal(size=(2, count, WIDTH)) * scales).astype(np.float32)
    part = Parts(f"{count} samples and {count} reference images, {WIDTH} features")
    images = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    pillow, arrays = build_resizer("clean"), images.permute(0, 2, 3, 1).numpy()
    part(f"{IMAGES} images to 299 pixels", lambda: resized(images.to(device).float()))
    part(f"{IMAGES} images to 299 pixels, Pillow", lambda: [pillow(image) for image in arrays])
    compare(part, fake * np.float32(1.1), real, device)


CASES = {"digits": digits, "cifar10": cifar10, "wide": wide}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--shared", type=Path, default=CONFIGS.parent.parent / "shared")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"Parts of an evaluation of {SAMPLES} samples\n{machine()}")
    for name in args.cases:
        CASES[name](device, args.shared)


if __name__ == "__main__":
    main()
