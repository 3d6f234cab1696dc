"""Warnings of too few pictures: few in number, or copied (docs/few_pictures.md)."""

from typing import Any

FEW = 100  # training images
LEVEL = 0.001  # of false alarms about copies, at most, at each evaluation

WARNINGS = {
    "few pictures": f"fewer than {FEW} training images, which a GAN can learn by heart",
    "copies": (
        "samples are memorised more often than unseen real images are by chance "
        f"(level {LEVEL:.1%} at each evaluation)"
    ),
}
ADVICE = "use more images, ADA (+regularizers/ada) or init_from, or stop earlier"


def warnings(record: dict[str, Any]) -> list[str]:
    """Returns the keys of WARNINGS that apply to the record of an evaluation."""
    few = record.get("training_images", FEW) < FEW  # not in records of earlier versions
    return ["few pictures"] * few + ["copies"] * _has_copies(record)


def _has_copies(record: dict[str, Any]) -> bool:
    """Whether the memorised share is above that of real images which were not trained on.

    These are the held-out images or, without any, the training images, each of them left out. The
    latter count as memorised in pairs, so that N of them say as much as N / 2 held-out ones. False
    where nothing was measured.
    """
    samples = record.get("memorised", 0.0), record["num_samples"]
    if "memorised_by_chance" in record:
        return exceeds(samples, (record["memorised_by_chance"], record["reference_images"]))
    pairs = record.get("training_images", 0) / 2
    return exceeds(samples, (record.get("memorised_left_out", 1.0), pairs))


def exceeds(share: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether a share is above another one by more than chance explains.

    True where the exact confidence intervals (Clopper and Pearson, Biometrika 1934) do not overlap,
    each one-sided at half of LEVEL. For independent trials of equal probability this is the case
    with a probability of at most LEVEL, whatever the numbers of trials.

    Args:
        share, other: a share and the number of trials that it was measured in.
    """
    from scipy.special import betaincinv

    (p, n), (q, m) = share, other
    lower = betaincinv(p * n, n - p * n + 1, LEVEL / 2) if p > 0 else 0.0
    upper = betaincinv(q * m + 1, m - q * m, 1 - LEVEL / 2) if q < 1 else 1.0
    return bool(lower > upper)
