"""The order of the rows, and the normalisation that a row is used with."""

import math
from contextlib import suppress
from typing import Any

from gan_vkd.advise.measure import Row, Target, normalized

LEAST, MOST = 4, 16  # whitened directions


def ranked(rows: list[Row]) -> list[Row]:
    """The rows in the order of their score, the best one first."""
    return sorted(rows, key=score, reverse=True)


def score(row: Row) -> float:
    """Geometric mean of the share of pictures found again and, where there are classes, the probe.

    A teacher that knows nothing but classes, such as one that was trained on these very pictures,
    is low in the former; one that knows nothing of what pictures show is low in the latter.
    """
    if row.probe is None:
        return row.retrieval
    return math.sqrt(row.retrieval * row.probe.accuracy)


def normalization(row: Row) -> dict[str, Any]:
    """The normalisation that a layer is used with: whitening of its agreeing directions.

    Whitening gives all kept directions the same weight. One whose views agree less than AGREEING
    holds more of the view than of the picture, and would have that weight too. No more than MOST
    are kept, since a short training learns little of more: of one teacher's 16, 43 and 64
    directions a discriminator explained 0.10, 0.05 and 0.04 after 200 updates
    (benchmarks/results/explained_share_cpu.md), and 16 are the only number with which a table shows
    a gain (cifar10_recipe_cpu.md). PCA and ZCA differ by a rotation, which the projection learns.
    Where fewer than LEAST agree they tell pictures apart less than all of them do: layer norm.
    """
    kept = min(row.directions, MOST)
    return _whitening(kept) if kept >= LEAST else {"name": "layer_norm"}


def _whitening(directions: int | None) -> dict[str, Any]:
    chosen = {"name": "whitening", "kind": "pca", "statistics": "training_set"}
    return chosen if directions is None else chosen | {"directions": directions}


def alternatives(row: Row) -> list[Target]:
    """The chosen normalisation of a layer first, and others beside it."""
    chosen = normalization(row)
    others = [_whitening(row.directions or None), _whitening(None)]
    others += [{"name": name} for name in ("phi_s", "standardize", "layer_norm", "none")]
    found = [normalized(row, chosen)]
    for other in others:
        with suppress(ValueError):  # phi_s is not defined for every width
            if other not in [target.normalization for target in found]:
                found.append(normalized(row, other))
    return found
