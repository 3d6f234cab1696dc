"""The settings of a method as run folders of earlier versions have them."""

from typing import Any

# What stood beside `method`; a stored settings file has all of them, one written by hand does not
BESIDE = {"projection", "normalization", "whitening", "statistics", "distance", "pkd_form"}
WITH_STATISTICS = ("whitening", "standardize", "phi_s")


def with_method(tree: Any) -> Any:
    """A section of an earlier version's run folder with its method as a component, any other as it
    is."""
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
