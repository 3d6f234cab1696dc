"""Prints the packages that this project needs and a machine lacks.

    python benchmarks/lacking.py PACKAGE_THAT_IT_HAS ...

The requirements of pyproject.toml, and those of the packages that are lacking, in the versions that
are installed here, which fit each other.
"""

import sys
import tomllib
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def lacking(has: set[str]) -> list[str]:
    """Names and versions of the packages that are needed beside those in `has`."""
    with open(PROJECT, "rb") as file:
        waiting = _names(tomllib.load(file)["project"]["dependencies"])
    found = set[str]()
    while waiting := waiting - has - found:
        found |= waiting
        waiting = set[str]().union(*(_names(requires(name) or []) for name in waiting))
    return [f"{name}=={version(name)}" for name in sorted(found)]


def _names(requirements: list[str]) -> set[str]:
    """Names of the packages of requirements, without those of extras and other systems."""
    read = map(Requirement, requirements)
    return {canonicalize_name(r.name) for r in read if not r.marker or r.marker.evaluate()}


if __name__ == "__main__":
    print("\n".join(lacking({canonicalize_name(name) for name in sys.argv[1:]})))
