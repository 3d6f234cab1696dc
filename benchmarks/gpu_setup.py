"""The runs that benchmarks/gpu.py measures: their sizes, data, weights and settings."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from gan_vkd.data.batches import Batches
from gan_vkd.data.sets import load_training_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.game.settings import Settings, load_settings
from gan_vkd.networks.cifar_resnet import CifarResNet

ROOT = Path(__file__).resolve().parents[1]
TEACHER, JUDGE, RESNET = (
    "weights/efficientnet_lite/tf_efficientnet_lite0.safetensors",
    "weights/efficientnet_lite/tf_efficientnet_lite2.safetensors",
    "weights/cifar_resnet/resnet56-4bfd9763.th",
)
IMAGES = "data/cifar10-subset/{}.zip"
NEEDED = [IMAGES.format("train"), IMAGES.format("test"), TEACHER, JUDGE, RESNET]
ARMS = {
    "no distillation": (),
    "cached features": ("distill.images=real", "distill.view=clean"),
    "teacher in the loop": ("distill.images=both", "distill.view=augmented"),
}
VARIANTS = {
    "float32": ("train.precision=float32", "train.graph=false"),
    "tf32": ("train.precision=tf32", "train.graph=false"),
    "bfloat16": ("train.precision=bfloat16", "train.graph=false"),
    "bfloat16, graph": ("train.precision=bfloat16", "train.graph=true"),
}
BEST = "bfloat16, graph"
COMPILED = f"{BEST}, compiled"  # the networks' forward by torch.compile
MEASURED = [
    *((arm, variant) for arm in ARMS for variant in VARIANTS),
    ("no distillation", COMPILED),
]


class Setup(NamedTuple):
    """Sizes of the measurements.

    device: cuda or cpu. ch, batch: of the networks' width and the images per update.
    images: of the training set. samples: of the evaluation. matrix: side of the products.
    seconds: of one measurement, of which there are several in a part. period: iterations between
    two looks at the clock.
    shared: folder with data/ and weights/ as benchmarks/pack.sh writes it; where one is missing,
    random images or weights are written to `scratch`.
    """

    device: str
    scratch: Path
    shared: Path
    ch: int = 64
    batch: int = 50
    images: int = 5000
    samples: int = 10_000
    matrix: int = 8192
    seconds: float = 2.0
    period: int = 10

    def data(self, split: str) -> Path:
        """The zip of a split: real images, or random ones of ten classes."""
        real = self.shared / IMAGES.format(split)
        if real.is_file():
            return real
        file = self.scratch / f"{split}.zip"
        if not file.is_file():
            random = np.random.default_rng(len(split))
            with zipfile.ZipFile(file.with_suffix(".part"), "w") as archive:
                for index in range(self.images):
                    pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                    with archive.open(f"class{index % 10}/{index:05d}.png", "w") as png:
                        Image.fromarray(pixels).save(png, "PNG", compress_level=0)
            file.with_suffix(".part").rename(file)
        return file

    def weights(self, path: str) -> Path:
        """The file of weights, or random ones of the same network."""
        if (self.shared / path).is_file():
            return self.shared / path
        file = self.scratch / Path(path).name
        if not file.is_file():
            torch.manual_seed(0)
            if file.suffix == ".th":
                torch.save({"state_dict": CifarResNet(56).state_dict()}, file)
            else:
                save_file(timm.create_model(file.stem).state_dict(), file)
        return file

    @property
    def invented(self) -> list[str]:
        """What is random since it is not in `shared`."""
        return [path for path in NEEDED if not (self.shared / path).is_file()]

    def settings(self, arm: str, variant: str, judged: bool = False) -> Settings:
        """Settings of a run; `judged`: with two judges and a held-out set, as in a real one."""
        config = "cifar10_10pct" + ("+methods/whitening" if ARMS[arm] else "")
        heldout = self.data("test") if judged else "null"
        changes = [
            f"data.source={self.data('train')}", f"data.heldout={heldout}", "data.fraction=null",
            f"data.num_images={self.images}",
            f"model.ch={self.ch}", f"train.batch_size={self.batch}", "train.logger=none",
            "train.sample_every=100000000", "train.checkpoint_every=100000000",
            "evaluate.every=100000000",
            f"device={self.device}", f"cache={self.scratch / 'features'}",
            "evaluate.features.name=cifar_resnet56",
            f"evaluate.features.weights={self.weights(RESNET)}",
            f"evaluate.num_samples={self.samples}", f"evaluate.batch_size={self.batch}",
            *VARIANTS[BEST if variant == COMPILED else variant],
        ]  # fmt: skip
        if judged:
            judge = f"name: timm/tf_efficientnet_lite2, size: 128, weights: '{self.weights(JUDGE)}'"
            changes.append(f"evaluate.also=[{{{judge}}}]")
        else:
            changes.append("evaluate.reference=train")
        if ARMS[arm]:
            teacher = (
                f"name: timm/tf_efficientnet_lite0, size: 96, weights: '{self.weights(TEACHER)}'"
            )
            changes += [f"distill.teacher={{{teacher}}}", *ARMS[arm]]
        return load_settings(ROOT / "configs" / config, changes)

    def batches(self) -> tuple[Batches, int]:
        """Batches of the training set as a run draws them, and the number of classes."""
        settings = DataSettings(
            source=str(self.data("train")), heldout=None, num_images=self.images
        )
        data = load_training_set(settings)
        batches = Batches(data, self.batch, flip=True, seed=0, device=self.device)
        return batches, len(data.classes)
