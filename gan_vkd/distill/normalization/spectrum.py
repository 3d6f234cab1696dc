"""Principal directions of covariances, and criteria for which of them to keep.

Covariances are (G, d, d) and their eigenvalues (G, d), for G groups of dimensions.
"""

import torch
from torch import Tensor

from gan_vkd.runtime import across


def effective_rank(values: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised eigenvalues, (..., d) -> (...), between 1 and d.

    Roy and Vetterli, EUSIPCO 2007, definition 1.
    """
    shares = values.clamp_min(0) / values.clamp_min(0).sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp()


def principal(cov: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (G, d) in descending order and eigenvectors (G, d, d) as columns.

    The sign of each eigenvector is such that its entry of largest magnitude is positive.
    """
    values, vectors = torch.linalg.eigh(cov)
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return values.flip(1).clamp_min(0), (vectors * largest.sign()).flip(2)


def leading(values: Tensor, directions: int | float | Tensor | None) -> Tensor:
    """Mask (G, d) of the principal directions to keep, for eigenvalues in descending order.

    directions: None keeps all; an int, that number; a tensor (G,), a number per group; a float, the
    fewest that explain this share of the variance.
    """
    if directions is None:
        return torch.ones_like(values, dtype=torch.bool)
    if isinstance(directions, float):
        total = values.cumsum(1)
        return total - values < directions * total[:, -1:]
    place = torch.arange(values.shape[1], device=values.device)
    return place < (directions[:, None] if isinstance(directions, Tensor) else directions)


def view_agreement(first: Tensor, second: Tensor) -> Tensor:
    """Correlation over samples of each coordinate between two views of the same samples.

    Args:
        first, second: coordinates (G, N, d) of the two views, with corresponding rows; with a
            process group, those of this rank's samples.

    Returns:
        (G, d), in [-1, 1]; 0 for a coordinate without variance.
    """
    count = first.new_tensor([first.shape[1]])
    terms = first, second, first.square(), second.square(), first * second
    sums = across.total(torch.cat([*(term.sum(1).flatten() for term in terms), count]))
    means = (sums[:-1] / sums[-1]).view(5, first.shape[0], -1)
    a, b, aa, bb, ab = means
    spread = ((aa - a.square()) * (bb - b.square())).clamp_min(0).sqrt()
    return torch.where(spread > 0, (ab - a * b) / spread, 0.0)
