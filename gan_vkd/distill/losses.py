"""Distillation losses with one call: loss = method(student_features, teacher_features).

Each is built from the widths of both sides and learns what it needs beside the student (a
projection, a regressor, a head), which is dropped after the training.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_vkd.distill.normalization import Standardize, make_normalization
from gan_vkd.distill.precision import Precise, at_least_float32, full_precision
from gan_vkd.distill.projection import LinearProjection, make_projection

DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "smooth_l1": F.smooth_l1_loss,
    "l1": F.l1_loss,
}


class VkDLoss(nn.Module):
    """distance(Zs P^T, normalise(Zt)) (Miles, Elezi and Deng, CVPR 2024, algorithm 1).

    Args:
        student_width: ds.
        teacher_width: dt.
        projection: a name in PROJECTIONS.
        normalization: a name in NORMALIZATIONS.
        distance: a name in DISTANCES; averaged over samples and dimensions.
        options: of the normalisation (momentum, eps, shrinkage, ...).
    """

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        *,
        projection: str = "orthogonal",
        normalization: str = "layer_norm",
        distance: str = "mse",
        **options: Any,
    ) -> None:
        super().__init__()
        self.project = make_projection(projection, student_width, teacher_width)
        self.normalize = make_normalization(normalization, teacher_width, **options)
        self.distance = DISTANCES[distance]

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, ds) and (B, dt) -> a scalar, with a gradient for the student and P only."""
        projected = at_least_float32(self.project(student))
        return self.distance(projected, self.normalize(teacher).to(projected.dtype))


class FitNets(Precise):
    """Squared error of a learnt linear regressor to the teacher's features.

    Romero et al., ICLR 2015, equation 3; averaged over dimensions, as VkD's distance is, where the
    paper takes half the sum.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.regress = nn.Linear(student_width, teacher_width)

    @full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, ds) and (B, dt) -> a scalar."""
        return F.mse_loss(self.regress(student), teacher)


class PKD(nn.Module):
    """Divergence of the teacher's conditional probabilities of neighbours from the student's.

    Probabilistic knowledge transfer (Passalis and Tefas, ECCV 2018): p(i | j) is the similarity
    (cos(z_i, z_j) + 1) / 2, normalised over i != j (equations 3 to 6). The published code takes the
    mean of the terms over all pairs; here it is the mean over j of the divergences.
    """

    least_batch = 2

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()

    @full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, ds) and (B, dt) -> a scalar."""
        p, q = self._conditional(teacher), self._conditional(student)
        return F.kl_div(q.log(), p, reduction="batchmean")

    @staticmethod
    def _conditional(features: Tensor) -> Tensor:
        """(B, d) -> (B, B - 1): the probabilities of the others."""
        z, b = F.normalize(features, dim=1), len(features)
        similarity = (z @ z.T + 1) / 2
        others = ~torch.eye(b, dtype=torch.bool, device=z.device)
        similarity = similarity[others].view(b, b - 1).clamp_min(1e-7)
        return similarity / similarity.sum(1, keepdim=True)


class SPKD(nn.Module):
    """Mean squared difference of the row-normalised products of all pairs.

    Similarity-preserving distillation (Tung and Mori, ICCV 2019, equations 1 to 4).
    """

    least_batch = 2

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()

    @full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, ds) and (B, dt) -> a scalar."""
        ours, theirs = (F.normalize(z @ z.T, dim=1) for z in (student, teacher))
        return F.mse_loss(ours, theirs)


class RKD(nn.Module):
    """Relations of pairs and of triplets: distances over their mean, and angles.

    Park et al., CVPR 2019, equations 4 to 9, with the weights of their distillation on
    classification: 25 for distances, 50 for angles.
    """

    least_batch = 3

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()

    @full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, ds) and (B, dt) -> a scalar."""
        distance = F.smooth_l1_loss(self._distances(student), self._distances(teacher))
        angle = F.smooth_l1_loss(self._angles(student), self._angles(teacher))
        return 25 * distance + 50 * angle

    @staticmethod
    def _distances(z: Tensor) -> Tensor:
        """(B, d) -> (B (B - 1) / 2,) over their mean."""
        distances = F.pdist(z)
        return distances / distances.mean().clamp_min(1e-12)

    @staticmethod
    def _angles(z: Tensor) -> Tensor:
        """(B, d) -> cosines (B, B, B) of the angle at the first sample to the two others."""
        towards = z[None] - z[:, None]
        itself = torch.eye(len(z), dtype=z.dtype, device=z.device)[..., None]
        towards = towards / (towards.norm(dim=2, keepdim=True) + itself).clamp_min(1e-12)
        return towards @ towards.mT


class VICReg(Precise):
    """Invariance to the standardised teacher, variance and covariance of the projected student.

    Bardes, Ponce and LeCun, ICLR 2022, equations 1 to 6, with their weights 25, 25 and 1; the
    second branch is a frozen teacher, so only the student's is held from collapsing.
    """

    least_batch = 2

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.project = LinearProjection(student_width, teacher_width)
        self.normalize = Standardize(teacher_width)

    @full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, ds) and (B, dt) -> a scalar."""
        z, target = self.project(student), self.normalize(teacher).to(student.dtype)
        centred = z - z.mean(0)
        cov = centred.T @ centred / (len(z) - 1)
        variance = F.relu(1 - (cov.diagonal() + 1e-4).sqrt()).mean()
        covariance = (cov - cov.diagonal().diag()).square().sum() / z.shape[1]
        return 25 * F.mse_loss(z, target) + 25 * variance + covariance


class KDDLGM(Precise):
    """Aggregated and correlated distillation with text, as in KD-DLGAN (Cui et al., CVPR 2023).

    Two linear layers map the student's features to the teacher's space. The terms are summed, as in
    the authors' code:

    - aggregated: the mapped features of real and of fake images are both drawn to the teacher's of
      the real ones and to the teacher's of the fake ones, image by image (mean Euclidean distance);
    - correlated: the row-normalised similarities to the texts of the classes are matched (squared
      Frobenius distance, a sum over the batch), of real and of fake images.

    The paper's diversity term is of the teacher's similarities: it gives nobody a gradient, and is
    left out.

    Args:
        student_width: ds.
        teacher_width: dt.
        text: (C, dt), one embedding a class in the teacher's space: of a text tower, or the rows of
            the teacher's classifier.

    Raises:
        ValueError: texts of another width, or fewer than two.
    """

    text: Tensor
    least_batch = 2

    def __init__(self, student_width: int, teacher_width: int, *, text: Tensor) -> None:
        super().__init__()
        if text.ndim != 2 or text.shape[1] != teacher_width or len(text) < 2:
            raise ValueError(
                f"text embeddings of shape {tuple(text.shape)} do not fit: needed are two or more "
                f"of the teacher's width {teacher_width}"
            )
        self.head = nn.Sequential(nn.Linear(student_width, 1024), nn.Linear(1024, teacher_width))
        self.register_buffer("text", F.normalize(text.float(), dim=1))

    @full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(2B, ds) and (2B, dt), B fake images and then B real ones -> a scalar."""
        ours = self.head(student)
        text = self.text.to(ours.dtype)
        aggregated = sum(
            (side - anchor).norm(dim=1).mean()
            for side in ours.chunk(2)
            for anchor in teacher.chunk(2)
        )
        ours_text, theirs_text = (F.normalize(z @ text.T, dim=1) for z in (ours, teacher))
        return aggregated + (ours_text - theirs_text).square().sum()


METHODS: dict[str, Callable[..., nn.Module]] = {
    "vkd": VkDLoss,
    "fitnets": FitNets,
    "pkd": PKD,
    "spkd": SPKD,
    "kd_dlgm": KDDLGM,
    "rkd": RKD,
    "vicreg": VICReg,
}


class LayerPairs(nn.Module):
    """The weighted sum of one loss a pair of layers, each with its own projection.

    Args:
        methods: one for each pair, called with its student and teacher features.
        weights: of the pairs.
    """

    def __init__(self, methods: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.methods, self.weights = nn.ModuleList(methods), list(weights)

    @property
    def least_batch(self) -> int:
        """Samples that the losses need, those that relate samples to each other more than one."""
        return max(getattr(method, "least_batch", 1) for method in self.methods)

    def forward(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        """Features (B, ds) and (B, dt) of every pair -> a scalar."""
        pairs = zip(self.weights, self.methods, students, teachers, strict=True)
        return torch.stack([weight * method(s, t) for weight, method, s, t in pairs]).sum()
