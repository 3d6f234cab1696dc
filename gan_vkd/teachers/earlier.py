"""Conversion of a method's settings in run folders of earlier versions."""

from typing import Any

# Keys that were beside `method`: a stored settings file has all, a hand-written one does not
BESIDE = {"projection", "normalization", "whitening", "statistics", "distance", "pkd_form"}
WITH_STATISTICS = ("whitening", "standardize", "phi_s")


def with_method(tree: Any) -> Any:
    """Converts an earlier version's section to one with its method as a component; returns any
    other section unchanged."""
    if not isinstance(tree, dict) or not tree.keys() >= BESIDE:
        return tree
    name, kind = tree.get("method"), str(tree["normalization"])
    normalization: dict[str, Any] = {"name": kind}
    if kind.startswith("whitening"):
        normalization = {"name": "whitening", "kind": kind[10:] or "zca", **tree["whitening"]}
    if normalization["name"] in WITH_STATISTICS:
        normalization["statistics"] = tree["statistics"]
    options = {
        "vkd": {
            "projection": tree["projection"],
            "normalization": normalization,
            "distance": tree["distance"],
        },
        "pkd": {"form": tree["pkd_form"]},
        "kd_dlgm": {"spectral": tree.get("spectral_head", True)},
    }
    rest = {key: value for key, value in tree.items() if key not in BESIDE | {"spectral_head"}}
    return rest | {"method": {"name": name, **options.get(str(name), {})}}
