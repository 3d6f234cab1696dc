"""Which package may import which: the arrows point one way, between packages and between files."""

import ast
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# A package, or a file beside the packages, imports from those before it alone.
ORDER = ["runtime", "distill", "data", "networks", "teachers", "evaluation", "game", "run",
         "exchange", "report", "training", "sweep", "front", "cli", "__main__"]  # fmt: skip

# Likewise in classification; recognition and detection do not know each other.
CLASSIFICATION = ["epochs", "recognition", "detection", "cli", "__main__"]


@cache
def modules() -> dict[str, Path]:
    """The files of both packages, by the name of their module."""
    files = [p for top in ("gan_vkd", "classification") for p in (ROOT / top).rglob("*.py")]
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in files}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


def imported(path: Path) -> set[str]:
    """The modules that a file names, at its top or inside of a function."""
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
    """What each file imports of both packages."""
    known = modules()
    return {name: imported(path) & known.keys() for name, path in known.items()}


def room(module: str) -> str:
    return module.split(".")[1]


def test_packages_import_from_those_before_them() -> None:
    names = [name for name in modules() if name.startswith("gan_vkd.")]
    assert {room(name) for name in names} == set(ORDER)
    for name in names:
        for other in graph()[name] - {"gan_vkd"}:
            assert ORDER.index(room(other)) <= ORDER.index(room(name)), f"{name} imports {other}"


def test_rooms_of_classification_import_from_those_before_them() -> None:
    names = [name for name in modules() if name.startswith("classification.")]
    assert {room(name) for name in names} == set(CLASSIFICATION)
    for name in names:
        for other in graph()[name] - {"classification"}:
            if other.startswith("classification."):
                order = CLASSIFICATION.index(room(other)), CLASSIFICATION.index(room(name))
                assert order[0] <= order[1], f"{name} imports {other}"
                assert {room(other), room(name)} != {"recognition", "detection"}


def test_no_circle_between_files() -> None:
    TopologicalSorter(graph()).prepare()  # raises CycleError, which names the circle


def test_sweeps_and_the_runtime_know_no_task() -> None:
    for name, others in graph().items():
        if name.startswith(("gan_vkd.runtime.", "gan_vkd.sweep.")):
            rooms = {room(other) for other in others - {"gan_vkd"}}
            assert rooms <= {"runtime", "sweep"}, name


def test_recognition_does_not_reach_the_game() -> None:
    edges = graph()
    reached = {name for name in edges if name.startswith("classification")}
    while more := {other for name in reached for other in edges[name]} - reached:
        reached |= more
    for name in reached:
        assert not name.startswith(("gan_vkd.game", "gan_vkd.evaluation", "gan_vkd.training"))


def test_the_core_needs_torch_alone() -> None:
    allowed = {"torch"} | sys.stdlib_module_names
    for name, path in modules().items():
        if name.startswith("gan_vkd.distill"):
            own = {"gan_vkd.runtime.across", "gan_vkd.runtime.registry"}
            others = {m for m in imported(path) if not m.startswith("gan_vkd.distill")} - own
            assert {other.partition(".")[0] for other in others} <= allowed, name
    across = imported(modules()["gan_vkd.runtime.across"])
    assert {other.partition(".")[0] for other in across} <= allowed
