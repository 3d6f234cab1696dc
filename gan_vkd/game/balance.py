"""Strength of the distillation loss relative to the adversarial loss, at the student's features."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_vkd.distill.precision import at_least_float32
from gan_vkd.runtime import ranks

LARGEST = 1e4  # maximum automatic weight, as in VQGAN


def balance(
    z: Tensor | None,
    adversarial_loss: Tensor,
    distillation_loss: Tensor,
    weight: float | str,
    gradient_ratio: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the distillation weight and the values to log. Does not synchronise with the device.

    The gradients of both losses are taken with respect to the features z (2B, d) that the score is
    computed from. With weight = "auto" the norm of the weighted distillation gradient is
    `gradient_ratio` times that of the adversarial gradient at every update (Esser, Rombach and
    Ommer, CVPR 2021, equation 7, balance their adversarial term in this way). If the adversarial
    gradient is zero, the automatic weight is zero. Logged values:

    - z_norm: mean Euclidean norm of z; z_centred: share of its mean square that is variance;
      z_rank: effective rank of the covariance C (participation ratio, tr(C)^2 / tr(C^2));
    - gradient_ratio: norm of the weighted distillation gradient over that of the adversarial
      gradient; gradient_cosine: cosine of the angle between them;
    - distill_weight.

    Args:
        z: the features; None if the distillation does not read them, then nothing is logged.
        adversarial_loss, distillation_loss: scalars, without a weight.
        weight: a number or "auto".
        gradient_ratio: the ratio of gradient norms that "auto" keeps.
    """
    if z is None:
        assert weight != "auto"
        return torch.full_like(distillation_loss, float(weight)), {}
    adversarial, distillation = (
        ranks.gather(at_least_float32(torch.autograd.grad(loss, z, retain_graph=True)[0]))
        for loss in (adversarial_loss, distillation_loss)
    )
    ratio = _ratio(distillation.norm(), adversarial.norm())
    if weight == "auto":
        factor = _ratio(torch.full_like(ratio, gradient_ratio), ratio).clamp_max(LARGEST)
    else:
        factor = torch.full_like(ratio, float(weight))
    cosine = F.cosine_similarity(adversarial.flatten(), distillation.flatten(), dim=0)
    logged = {"distill_weight": factor, "gradient_ratio": factor * ratio, "gradient_cosine": cosine}
    return factor, logged | _spread(ranks.gather(z.detach()))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, or 0 where b is 0."""
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), 0.0)


def _spread(z: Tensor) -> dict[str, Tensor]:
    z = at_least_float32(z)
    centred = z - z.mean(0)
    gram = centred.T @ centred
    variance = gram.trace()
    return {
        "z_norm": z.norm(dim=1).mean(),
        "z_centred": _ratio(variance, z.square().sum()),
        "z_rank": _ratio(variance.square(), gram.square().sum()),
    }
