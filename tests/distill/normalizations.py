"""Normalisations by short names."""

from typing import Any

from gan_vkd.distill import NORMALIZATIONS, Normalization


def make_normalization(name: str, width: int, **options: Any) -> Normalization:
    """Makes a normalisation of the registry; whitening_pca and whitening_cholesky set `kind`."""
    name, _, kind = name.partition("whitening_")
    chosen = {"name": "whitening", "kind": kind} if kind else {"name": name or "whitening"}
    return NORMALIZATIONS.make(chosen | options, width)
