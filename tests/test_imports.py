"""The allowed imports between packages, without cycles between packages or files."""

import ast
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# a package, or a file beside the packages, imports only from earlier ones
ORDER = ["runtime", "distill", "data", "networks", "teachers", "evaluation", "game", "run",
         "exchange", "transfer", "report", "hub", "training", "auto", "advise", "quickstart",
         "sweep", "completion", "script_options", "doctor", "front", "tools", "demo", "cli",
         "__main__"]  # fmt: skip

# likewise in classification; recognition and detection do not import each other
CLASSIFICATION = ["epochs", "recognition", "detection", "cli", "__main__"]


@cache
def modules() -> dict[str, Path]:
    """Returns the files of both packages by module name."""
    files = [p for top in ("gan_vkd", "classification") for p in (ROOT / top).rglob("*.py")]
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in files}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


def imported(path: Path) -> set[str]:
    """Returns the modules that a file imports, also inside functions."""
    known, found = modules(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
            found |= inside or {node.module}
    return found


@cache
def graph() -> dict[str, set[str]]:
    """Returns for each module the modules of both packages that it imports."""
    known = modules()
    return {name: imported(path) & known.keys() for name, path in known.items()}


def package(module: str) -> str:
    return module.split(".")[1]


def test_packages_import_only_from_earlier_ones() -> None:
    names = [name for name in modules() if name.startswith("gan_vkd.")]
    assert {package(name) for name in names} == set(ORDER)
    for name in names:
        for other in graph()[name] - {"gan_vkd"}:
            assert ORDER.index(package(other)) <= ORDER.index(package(name)), (
                f"{name} imports {other}"
            )


def test_packages_of_classification_import_only_from_earlier_ones() -> None:
    names = [name for name in modules() if name.startswith("classification.")]
    assert {package(name) for name in names} == set(CLASSIFICATION)
    for name in names:
        for other in graph()[name] - {"classification"}:
            if other.startswith("classification."):
                order = CLASSIFICATION.index(package(other)), CLASSIFICATION.index(package(name))
                assert order[0] <= order[1], f"{name} imports {other}"
                assert {package(other), package(name)} != {"recognition", "detection"}


def test_there_are_no_circular_imports() -> None:
    TopologicalSorter(graph()).prepare()  # raises CycleError, which names the cycle


def test_sweeps_and_the_runtime_import_no_task() -> None:
    for name, others in graph().items():
        if name.startswith(("gan_vkd.runtime.", "gan_vkd.sweep.")):
            packages = {package(other) for other in others - {"gan_vkd"}}
            assert packages <= {"runtime", "sweep"}, name


def test_classification_does_not_import_the_gan_trainer() -> None:
    edges = graph()
    reached = {name for name in edges if name.startswith("classification")}
    while more := {other for name in reached for other in edges[name]} - reached:
        reached |= more
    for name in reached:
        assert not name.startswith(("gan_vkd.game", "gan_vkd.evaluation", "gan_vkd.training"))


def test_the_core_imports_torch_only() -> None:
    allowed = {"torch"} | sys.stdlib_module_names
    for name, path in modules().items():
        if name.startswith("gan_vkd.distill"):
            own = {"gan_vkd.runtime.across", "gan_vkd.runtime.registry"}
            others = {m for m in imported(path) if not m.startswith("gan_vkd.distill")} - own
            assert {other.partition(".")[0] for other in others} <= allowed, name
    across = imported(modules()["gan_vkd.runtime.across"])
    assert {other.partition(".")[0] for other in across} <= allowed
