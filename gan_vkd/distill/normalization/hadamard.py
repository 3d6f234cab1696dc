"""Hadamard matrices: entries of equal magnitude and orthogonal rows."""

import torch
from torch import Tensor


def hadamard(width: int) -> Tensor:
    """H (width, width) in float64 with H H^T = I and every entry +-1 / sqrt(width).

    Uses Sylvester's doubling, starting from 1 or, if the width is not a power of two, from the
    smallest matrix that Paley's constructions (J. Math. Phys. 1933) give for a prime.

    Raises:
        ValueError: no such construction exists for the width.
    """
    signs = _signs(width)
    if signs is None:
        raise ValueError(
            f"no Hadamard matrix of width {width} can be constructed (possible are 2^k, 12 * 2^k, "
            "20 * 2^k, 28 * 2^k and others); choose another normalisation"
        )
    return signs / width**0.5


def _signs(width: int) -> Tensor | None:
    if width == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    half = _signs(width // 2) if width % 2 == 0 else None
    if half is not None:
        return torch.cat([torch.cat([half, half], 1), torch.cat([half, -half], 1)])
    if width % 4 == 0 and _is_prime(width - 1):
        return torch.eye(width, dtype=torch.float64) + _bordered(width - 1, -1)
    prime = width // 2 - 1
    if width % 4 == 0 and prime % 4 == 1 and _is_prime(prime):
        zero = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        one = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        unit = torch.eye(prime + 1, dtype=torch.float64)
        return torch.kron(_bordered(prime, 1), one) + torch.kron(unit, zero)
    return None


def _bordered(prime: int, corner: int) -> Tensor:
    """Quadratic characters of i - j modulo a prime, bordered by ones, with a zero diagonal."""
    numbers = torch.arange(prime)
    character = torch.full((prime,), -1.0, dtype=torch.float64)
    character[numbers**2 % prime] = 1.0
    character[0] = 0.0
    square = torch.ones(prime + 1, prime + 1, dtype=torch.float64)
    square[0, 0] = 0.0
    square[1:, 0] = corner
    square[1:, 1:] = character[(numbers[:, None] - numbers) % prime]
    return square


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % i for i in range(2, int(n**0.5) + 1))
