"""Lists of numbers on the command line: seeds, psi, classes."""

import re

from gan_vkd.runtime.errors import SettingsError

MOST = 1_000_000  # seeds in one list
PART = re.compile(r"(\d{1,10})(?:-(\d{1,10}))?")


def parse_seeds(text: str, option: str = "--seeds") -> list[int]:
    """Reads "0-3,42" as [0, 1, 2, 3, 42]; both ends of a range are part of it.

    Raises:
        SettingsError: another form, a range that goes down, a number above 2^32 - 1, or too many.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = PART.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < 2**32:
            raise SettingsError(
                f"{option} {text[:60]}: expected numbers from 0 to {2**32 - 1} and ranges of them, "
                "such as 0-15,42"
            )
        if len(seeds) + last - first >= MOST:
            raise SettingsError(f"{option} {text[:60]}: more than {MOST} numbers")
        seeds += range(first, last + 1)
    return seeds


def parse_psis(text: str) -> list[float]:
    """Reads "0,0.5,1" as truncations.

    Raises:
        SettingsError: not a list of numbers from 0 to 2.
    """
    try:
        psis = [float(part) for part in text.split(",")]
    except ValueError:
        psis = [-1.0]
    if not all(0 <= psi <= 2 for psi in psis):
        raise SettingsError(f"--psi {text[:60]}: expected numbers from 0 to 2, such as 0,0.5,1")
    return psis
