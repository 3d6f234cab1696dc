"""Measures how much of a teacher the discriminator can learn without an adversarial loss.

    python benchmarks/explained_share.py --out FOLDER \\
        --data "{source: TRAIN.zip, heldout: TEST.zip, num_images: 5000}" \\
        --teacher "{name: cifar_resnet56, weights: RESNET56.th}" \\
        --teacher "{name: timm/tf_efficientnet_lite0, weights: LITE0.safetensors, size: 96}"

Every cell trains a new discriminator, with the same initial weights and batches, to map a
DiffAugmented image to the teacher's normalised features of the clean image. Statistics are those of
the training set. A student is feature+scaling+method (gan_vkd/distill/student.py): vkd is an
orthogonal projection, fitnets a linear map with bias, initialised to zero, both with the mean
squared error. A normalisation is a name, or whitening+N or whitening+agreement for the directions
to keep. If called again, it continues with the cells that are not in FOLDER/cells.jsonl.

The columns, all but the last measured on held-out images:
- share: the explained share of the target (gan_vkd/game/explained.py) on the clean images.
- views: the same for one DiffAugmented view of each image.
- R^2: of the projected features, without the optimal centre and factor of the share.
- ridge: R^2 of a ridge regression on the trained discriminator's pooled features of the clean
  images, fitted to the training set.
- rank: the share of the target's variance in as many principal directions as the pooled feature is
  wide, which no affine map of it can exceed.
- norm of z: the mean norm of the pooled feature in the first and in the last batch.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn

from gan_vkd.data.augment import Augmentations
from gan_vkd.data.batches import Batches
from gan_vkd.data.image_set import ImageSet, to_network
from gan_vkd.data.sets import load_heldout_set, load_training_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.distill import METHODS, NORMALIZATIONS, Normalization, StudentFeature, retract
from gan_vkd.distill.losses import FitNets
from gan_vkd.distill.normalization import RunningStatistics
from gan_vkd.game.explained import explained_share
from gan_vkd.networks.biggan import Discriminator
from gan_vkd.report.tables import markdown
from gan_vkd.runtime.precision import autocast
from gan_vkd.runtime.section import Section
from gan_vkd.teachers.features import FeatureBank, load_bank, load_views
from gan_vkd.teachers.frozen import load_teacher
from gan_vkd.teachers.settings import NetworkSettings

POLICY = ["translation", "cutout"]
BATCH, LR, BETAS = 50, 4e-4, (0.0, 0.999)
STUDENTS = [  # mean+batch would equal pooled+batch, since the scaling removes the factor
    "pooled+none+vkd", "mean+none+vkd", "head+none+vkd", "pooled+batch+vkd", "head+batch+vkd",
    "pooled+learnt+vkd", "mean+learnt+vkd", "pooled+batch+fitnets",
]  # fmt: skip
TARGETS = [
    "layer_norm", "standardize", "phi_s", "whitening", "whitening+64", "whitening+16",
    "whitening+agreement",
]  # fmt: skip


class Student(nn.Module):
    """A discriminator, its student feature, and the method that maps it to the teacher.

    Args:
        name: feature+scaling+method.
        ch: width of the discriminator.
        teacher_width: dt.
    """

    def __init__(self, name: str, ch: int, teacher_width: int) -> None:
        super().__init__()
        feature, scaling, method = name.split("+")
        discriminator = Discriminator(ch=ch, classes=0)
        width, positions = discriminator.linear.in_features, discriminator.positions
        self.discriminator = discriminator.to(memory_format=torch.channels_last)
        self.feature = StudentFeature(
            width, teacher_width, feature=feature, scaling=scaling, positions=positions
        )
        options = (
            {"normalization": "none"} if method == "vkd" else {}
        )  # targets are normalised already
        self.method = METHODS[method](self.feature.width, teacher_width, **options)
        if isinstance(self.method, FitNets):  # random weights would outweigh a truncated target
            nn.init.zeros_(self.method.regress.weight)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps images (B, 3, R, R) in [-1, 1] to pooled features and the input of the method."""
        with autocast("cpu", "bfloat16"):
            pooled = self.discriminator.features(images)
        return pooled.float(), self.feature(pooled)[1]

    @torch.no_grad()
    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the same for any number of images, in eval mode."""
        self.eval()
        pooled, features = zip(*map(self, images.split(2 * BATCH)), strict=True)
        self.train()
        return torch.cat(pooled), torch.cat(features)


class RegressionData(NamedTuple):
    """Training images with normalised teacher features, and held-out images with theirs (N, dt)."""

    data: ImageSet
    known: FeatureBank
    heldout: ImageSet
    target: Tensor


def fit_normalization(
    name: str, bank: FeatureBank, load_views: Callable[[], tuple[Tensor, Tensor]]
) -> Normalization:
    """Fits a normalisation to the training set, as in gan_vkd/game/distillation.py.

    Args:
        name: a name, or whitening+N or whitening+agreement.
        bank: teacher features of the training images.
        load_views: returns the features of two augmented views of them.
    """
    kind, _, kept = name.partition("+")
    options = {"directions": int(kept) if kept.isdecimal() else kept} if kept else {}
    normalization = NORMALIZATIONS.make({"name": kind, **options}, bank.features.shape[1])
    if kept == "agreement":
        normalization.fit_views(*load_views())
    elif isinstance(normalization, RunningStatistics):
        normalization.fit([bank.features])
    return normalization.eval()


def train(student: Student, batches: Batches, known: FeatureBank, steps: int) -> list[float]:
    """Trains a student; returns the mean pooled norm in the first and in the last batch."""
    optimizer = torch.optim.Adam(student.parameters(), LR, BETAS)
    norms = []
    for number in range(steps):
        batch = batches(number)
        pooled, features = student(Augmentations(POLICY)(batch.images))
        loss = student.method(features, known(batch.indices, batch.flipped))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        retract(student)
        norms.append(pooled.detach().norm(dim=1).mean())
    return [float(norms[0]), float(norms[-1])]


def r2(predicted: Tensor, target: Tensor) -> float:
    """1 - squared error / variance, over all dimensions of (N, d)."""
    error = (predicted - target).square().sum()
    return float(1 - error / (target - target.mean(0)).square().sum())


def ridge_share(features: Tensor, target: Tensor, new: Tensor, new_target: Tensor) -> float:
    """Returns R^2 on new samples of a ridge regression to (N, dt), regularised by leave-one-out."""
    # a common scale, so that dimensions that are nearly always zero are not amplified
    scale = (features - features.mean(0)).square().mean().sqrt().clamp_min(1e-12)
    ridge = RidgeCV(np.logspace(-3, 5, 9))
    ridge.fit((features / scale).double().numpy(), target.double().numpy())
    predicted = torch.from_numpy(ridge.predict((new / scale).double().numpy()))
    return r2(predicted, new_target)


def rank_share(target: Tensor, rank: int) -> float:
    """Returns the largest R^2 of (N, dt) by an affine map of `rank` features."""
    variances = torch.linalg.svdvals((target - target.mean(0)).double()).square()
    return float(variances[:rank].sum() / variances.sum())


def run(name: str, regression: RegressionData, args: argparse.Namespace) -> dict[str, float | str]:
    """Trains and evaluates the student of one cell."""
    torch.manual_seed(args.seed)
    student = Student(name, args.ch, regression.target.shape[1])
    batches = Batches(regression.data, BATCH, flip=True, seed=args.seed, device="cpu")
    norms = train(student, batches, regression.known, args.steps)
    clean = to_network(regression.heldout.images)
    torch.manual_seed(args.seed)
    views = Augmentations(POLICY)(clean)
    pooled, features = student.read(clean)
    method = student.method.eval().requires_grad_(False)
    predicted, target = method.sides(features, regression.target)
    of_views, _ = method.sides(student.read(views)[1], regression.target)
    of_training_set = student.read(to_network(regression.data.images))[0]
    known = regression.known.features[: len(regression.data)]
    return {
        "share": float(explained_share(predicted, target)),
        "views": float(explained_share(of_views, target)),
        "R^2": r2(predicted, target),
        "ridge": ridge_share(of_training_set, known, pooled, target),
        "rank": rank_share(target, pooled.shape[1]),
        "norm of z": f"{norms[0]:.1f} to {norms[1]:.1f}",
    }


def table(cells: list[dict[str, Any]]) -> str:
    columns = "normalization", "student", "share", "views", "R^2", "ridge", "rank", "norm of z"
    rows = [{column: cell[column] for column in columns} for cell in cells]
    return markdown(
        [{k: v if isinstance(v, str) else f"{v:.3f}" for k, v in row.items()} for row in rows]
    )


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    file = args.out / "cells.jsonl"
    args.out.mkdir(parents=True, exist_ok=True)
    cells = [json.loads(x) for x in file.read_text().splitlines()] if file.exists() else []
    data, heldout = load_training_set(args.data), load_heldout_set(args.data)
    for settings in args.teacher:
        teacher = load_teacher(settings, 32, "cpu")
        bank = load_bank(teacher, data, True, args.out)
        known = load_bank(teacher, heldout, False, args.out).features
        views = partial(load_views, teacher, data, POLICY, args.out)
        mine = []
        for normalization in args.normalizations:
            regression = None
            for student in args.students:
                key = {"teacher": settings.name, "normalization": normalization, "student": student}
                key |= {"ch": args.ch, "steps": args.steps, "seed": args.seed}
                cell = next((cell for cell in cells if key.items() <= cell.items()), None)
                if cell is None:
                    if regression is None:
                        normalize = fit_normalization(normalization, bank, views)
                        targets = FeatureBank(normalize(bank.features), len(data))
                        regression = RegressionData(data, targets, heldout, normalize(known))
                    cell = key | run(student, regression, args)
                    with file.open("a") as out:
                        out.write(json.dumps(cell) + "\n")
                mine.append(cell)
        print(f"\n{settings.name}, ch {args.ch}, steps {args.steps}\n\n{table(mine)}", flush=True)


def section(schema: type[Section]) -> Callable[[str], Section]:
    return lambda text: schema.model_validate(yaml.safe_load(text))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of results and cached features"
    )
    parser.add_argument("--data", type=section(DataSettings), required=True, help="in YAML")
    parser.add_argument(
        "--teacher", type=section(NetworkSettings), required=True, action="append", help="in YAML"
    )
    parser.add_argument("--students", nargs="+", default=STUDENTS)
    parser.add_argument("--normalizations", nargs="+", default=TARGETS)
    parser.add_argument("--ch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
