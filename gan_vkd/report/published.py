"""The published table, the settings behind it, and the known differences that remain."""

from dataclasses import asdict, dataclass
from typing import Any

from gan_vkd.game.settings import PairSettings, Settings, StudentSettings
from gan_vkd.report.tables import markdown
from gan_vkd.teachers.settings import TextSettings

# FID at 10% of the training set (Miles, Elezi and Deng, CVPR 2024), CIFAR-10 and CIFAR-100.
PUBLISHED_FID = {
    "none": (23.34, 35.39),
    "fitnets": (22.03, 33.93),
    "pkd": (21.34, 32.15),
    "spkd": (19.11, 31.97),
    "kd_dlgm": (14.20, 18.03),
    "layernorm": (16.47, 24.92),
    "whitening": (13.16, 16.87),
}

# The known part of the published protocol that settings express; DEVIATIONS lists the rest.
PROTOCOL: dict[str, Any] = {
    "data": {
        "fraction": 0.1,
        "num_images": None,
        "resolution": 32,
        "conditional": None,
        "flip": True,
        "heldout": "test",
    },
    "model": {"name": "biggan", "ch": 64, "z_dim": 128},
    "adversary": {"name": "hinge"},
    "augment": [
        {"name": "translation", "ratio": 0.125, "p": 1.0},
        {"name": "cutout", "ratio": 0.5, "p": 1.0},
    ],
    "regularize": {"lecam": 0.0, "consistency": 0.0, "r1": 0.0},
    "train": {
        "iterations": 125_000,
        "batch_size": 50,
        "d_steps": 4,
        "g_lr": 2e-4,
        "d_lr": 2e-4,
        "betas": (0.0, 0.999),
        "ema_decay": 0.9999,
        "ema_start": 1000,
    },
    "evaluate": {
        "features": {"name": "inception_legacy_tensorflow"},
        "reference": "heldout",
        "num_samples": 10_000,
        "batch_size": 50,
        "batch_norm": "batch",
    },
}
DISTILLATION: dict[str, Any] = {
    "teacher": {
        "name": "timm/vit_base_patch32_clip_quickgelu_224.openai",
        "layer": None,
        "pool": "mean",
        "size": None,
        "enlarge": "nearest",
        "normalize": False,
    },
    "pairs": [PairSettings().model_dump()],
    "student": StudentSettings().model_dump(),
    "aggregated": 0.0,
    "weight": 10.0,
    "images": "both",
    "view": "augmented",
}
# VkD's two rows are left out: the distilled feature, the projection, the whitening and the further
# loss term behind them are not known for certain.
ARMS: dict[str, Any] = {
    "none": None,
    "fitnets": DISTILLATION | {"method": {"name": "fitnets"}},
    "pkd": DISTILLATION | {"method": {"name": "pkd", "form": "code"}},
    "spkd": DISTILLATION | {"method": {"name": "spkd"}},
    "kd_dlgm": DISTILLATION
    | {
        "method": {"name": "kd_dlgm", "spectral": True},
        "text": TextSettings(normalize=False).model_dump(exclude={"names"}),
    },
}
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NAMES = {"cifar10": (None, CIFAR10), "cifar100": (CIFAR10,)}  # class names, as in the code


def published_fid(settings: Settings) -> float | None:
    """The published FID for a run's settings; None where they are not the published ones.

    VkD's figures belong to no known settings: see DEVIATIONS.
    """
    tree, source = settings.model_dump(), settings.data.source
    if source not in NAMES or not _contains(tree, PROTOCOL):
        return None
    text = settings.distill.text if settings.distill is not None else None
    if text is not None and text.names not in NAMES[source]:
        return None
    for arm, distillation in ARMS.items():
        if _contains(tree["distill"], distillation):
            return PUBLISHED_FID[arm][source == "cifar100"]
    return None


def _contains(tree: Any, part: Any) -> bool:
    """Whether the tree has every value of the part, at any depth."""
    if isinstance(part, dict):
        return isinstance(tree, dict) and all(_contains(tree[k], v) for k, v in part.items())
    return bool(part == tree)


@dataclass(frozen=True)
class Deviation:
    """A difference between the published configs here and the code behind the published figures.

    theirs, ours: what the code of KD-DLGAN or VkD does, and what a published config here does.
    setting: the "key=value" or "+NAME" that selects theirs; None: no setting does.
    """

    topic: str
    theirs: str
    ours: str
    setting: str | None = None


# KD-DLGAN: github.com/cuikaiwen18/KD_DLGAN. VkD's code for generation was never released; what is
# stated about it here is from its author's answers in the issues of github.com/roymiles/VkD.
DEVIATIONS = (
    Deviation(
        "VkD: the feature",
        "the output of KD-DLGAN's head, 512 wide: two spectrally normalised linear layers",
        "the pooled feature of the discriminator, 256 wide",
        "distill.student.feature=head",
    ),
    Deviation(
        "VkD: the projection",
        "belongs to the generator, so that the discriminator's update does not train it: perhaps a "
        "fixed random rotation",
        "trained with the discriminator",
        "distill.method.projection=orthogonal_fixed",
    ),
    Deviation(
        "VkD: KD-DLGM's aggregated term",
        "the text losses were removed; it is not said whether this term was",
        "removed",
        "distill.aggregated=10",
    ),
    Deviation(
        "VkD: whitening",
        "code like github.com/htdt/self-supervised: by Cholesky, from the covariance of the batch, "
        "which is singular below 513 images; eps 0; running statistics with momentum 0.01 in eval "
        "mode only",
        "ZCA of all features seen so far, shrunk towards the diagonal, eps 1e-5",
        "+methods/cholesky",
    ),
    Deviation("VkD: weight and distance", "not said for generation", "10, mean squared error"),
    Deviation(
        "FitNets, PKD, SPKD in a GAN",
        "code, feature, regressor and weight not released",
        "on the pooled feature, with KD-DLGAN's weight 10",
    ),
    Deviation(
        "PKD: constants",
        "1e-7 is added to norms and to the probabilities in the logarithm",
        "similarities are clamped at 1e-7; the gradient differs by 1e-5",
    ),
    Deviation(
        "KD-DLGM: diversity term",
        "a number that depends on no trained parameter is added to the loss",
        "left out",
    ),
    Deviation(
        "KD-DLGM: power iteration of the head",
        "starts from random vectors, so that the first outputs are about 1.4 times larger; the "
        "generator's update advances it too",
        "fifteen iterations before the first forward; one at each update of the discriminator",
    ),
    Deviation(
        "CLIP",
        "OpenAI's package in half precision, including the similarities to the texts",
        "timm's and open_clip's copies of the same weights, in float32",
    ),
    Deviation(
        "precision",
        "torch's default: float32, with convolutions in TF32 on GPUs that have it",
        "bfloat16 on GPUs with bfloat16 arithmetic",
        "train.precision=tf32",
    ),
    Deviation(
        "regularisation",
        "train.sh runs every experiment with LeCam at weight 0.3; the table's rows name "
        "DiffAugment only",
        "without LeCam",
        "regularize.lecam=0.3",
    ),
    Deviation(
        "GPUs",
        "two, each with batch statistics of its 25 images",
        "statistics of all 50 images, on any number of GPUs",
    ),
    Deviation(
        "sampling",
        "batch norm in training mode, batches of 50 on two GPUs, so statistics of 25 images",
        "statistics of batches of 50 images",
    ),
    Deviation(
        "subset",
        "drawn by NumPy with the seed, so that classes differ in size",
        "drawn by a hash of seed and name; classes keep their shares",
    ),
    Deviation(
        "evaluations",
        "the best of 33: every 4,000 iterations from 0 on, and at the end",
        "every 4,000 iterations and at the end; tables show the best and the last",
    ),
    Deviation(
        "Inception",
        "TensorFlow's graph, from StyleGAN's release",
        "its conversion to TorchScript, as clean-fid's legacy_tensorflow mode",
    ),
    Deviation("random numbers", "seed 0 of NumPy and PyTorch", "other streams of the same seed"),
)


def deviations_table() -> str:
    """DEVIATIONS as Markdown, for docs/deviations.md."""
    columns = {
        "topic": "topic",
        "theirs": "the published code",
        "ours": "the published configs here",
        "setting": "setting that gives theirs",
    }
    rows = [asdict(deviation) for deviation in DEVIATIONS]
    for row in rows:
        row["setting"] = f"`{row['setting']}`" if row["setting"] else ""
    return markdown([{title: row[field] for field, title in columns.items()} for row in rows])
