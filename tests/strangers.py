"""Ways in which a stranger's run folder differs from ours, and limits to what may come of it."""

import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gan_vkd.run import Run
from gan_vkd.runtime.checkpoint import digest, load_state, save_state
from gan_vkd.runtime.errors import VkdError

SECONDS = 5  # of CPU time
MEMORY = 2**30  # bytes more than before

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6),
    st.sampled_from(
        [[], {}, [[]], {"a": 1}, "x" * 100_000, 10**30, -1, 2**63, 1e308, "\x1b[2J", "a\nb", "$x$",
         "\ud800", "=cmd()", "a|b", "../..", "/dev/zero", "nan"]
    ),
)  # fmt: skip


# Ways to change a tree of mappings and lists at one place


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all nodes of a tree, that to the root first."""
    found = [path]
    if isinstance(tree, dict):
        for key, value in tree.items():
            found += places(value, (*path, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree[:3]):
            found += places(value, (*path, index))
    return found


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = replaced(tree[path[0]], path[1:], value)
    return copy


def mutated(draw: st.DrawFn, tree: Any) -> Any:
    for _ in range(draw(st.integers(1, 2))):
        tree = replaced(tree, draw(st.sampled_from(places(tree))), draw(ODD))
    return tree


# What is done to a run folder; each gets the folder and draws


def odd_settings(run: Path, draw: st.DrawFn) -> None:
    file = run / "settings.yaml"
    try:
        file.write_text(yaml.safe_dump(mutated(draw, yaml.safe_load(file.read_text()))))
    except UnicodeEncodeError:
        file.write_bytes(b"\xff\xfe")


def odd_text(run: Path, draw: st.DrawFn) -> None:
    name = draw(st.sampled_from(["settings.yaml", "metrics.jsonl", "exit_code"]))
    text = draw(
        st.sampled_from(
            ["", "5", "null", "[" * 100_000, "a: &a [*a]", "base: settings.yaml", "base: /dev/zero",
             "arm: x\narm: y", "arm: !!bool foo", "a\0b"]
        )
    )  # fmt: skip
    (run / name).write_text(text)


def odd_records(run: Path, draw: st.DrawFn) -> None:
    file = run / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    index = draw(st.integers(0, len(records) - 1))
    records[index] = mutated(draw, records[index])
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def odd_facts(run: Path, draw: st.DrawFn) -> None:
    """The checksum fits, as a stranger can make it do."""
    file = run / "generator.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    if draw(st.booleans()):
        facts = mutated(draw, json.loads(metadata["facts"]))
    else:
        facts, name = json.loads(metadata["facts"]), draw(st.sampled_from(sorted(tensors)))
        tensors[name] = odd_tensor(draw, tensors[name])
    text = json.dumps(facts)
    save_file(tensors, file, metadata | {"facts": text, "sha256": digest(text, tensors)})


def odd_tensor(draw: st.DrawFn, tensor: Tensor) -> Tensor:
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda t: torch.full_like(t.float(), float("nan")),
        lambda t: t.to(torch.complex64),
        lambda t: t.to(torch.int8),
        lambda t: t.bool(),
        lambda t: t[None].contiguous(),
        lambda t: t.new_zeros(0),
        lambda t: t.float() * 1e38 * 1e38,
    ]
    return draw(st.sampled_from(changes))(tensor)


def odd_checkpoint(run: Path, draw: st.DrawFn) -> None:
    file = Run(run).checkpoints()[-1]
    state = load_state(file)
    path = draw(st.sampled_from(places(state)[1:]))
    node: Any = state
    for part in path:
        node = node[part]
    value = odd_tensor(draw, node) if isinstance(node, Tensor) and draw(st.booleans()) else None
    try:
        save_state(file, replaced(state, path, draw(ODD) if value is None else value))
    except (ValueError, UnicodeEncodeError):
        file.write_bytes(b"")


def odd_names(run: Path, draw: st.DrawFn) -> None:
    """Links, pipes and folders in the place of files, names that look like ours."""
    outside = run.parent / "outside"
    name = draw(
        st.sampled_from(
            [".lock", "settings.yaml", "metrics.jsonl", "generator.safetensors", "exit_code",
             "checkpoints", "samples", "scores", "tensorboard", "neighbours.png",
             "evaluations.jsonl", "checkpoints/00000009 (copy).safetensors",
             "checkpoints/00000002.safetensors", "checkpoints/99999999999999999999.safetensors"]
        )
    )  # fmt: skip
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    kind = draw(st.sampled_from(["link", "link to a folder", "pipe", "folder", "device", "empty"]))
    if kind == "link":
        path.symlink_to(outside / "precious")
    elif kind == "link to a folder":
        path.symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"")


UNCHANGEABLE = (
    VkdError, SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError,
)  # fmt: skip
CHANGES = [odd_settings, odd_text, odd_records, odd_facts, odd_checkpoint, odd_names]


def changed(run: Path, draw: st.DrawFn) -> bool:
    """Changes the folder in one or two ways; False where the second finds nothing to change."""
    changes = draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=2, unique=True))
    for change in sorted(changes, key=CHANGES.index):  # links last: nothing is written through them
        try:
            change(run, draw)
        except UNCHANGEABLE:
            return False
    return True


@contextmanager
def within_limits() -> Iterator[None]:
    """Asserts that what is done in the context takes less than SECONDS and MEMORY."""
    memory, since = _peak_memory(), time.process_time()
    try:
        yield
    finally:
        assert time.process_time() - since < SECONDS
        assert _peak_memory() - memory < MEMORY


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def copy_of(run: Path, folder: Path) -> Iterator[Path]:
    """A copy of a run folder beside a folder of the user's, which must stay as it is."""
    copy, outside = folder / "run", folder / "outside"
    shutil.copytree(run, copy)
    outside.mkdir()
    (outside / "precious").write_text("precious")
    try:
        yield copy
        assert [file.name for file in outside.iterdir()] == ["precious"]
        assert (outside / "precious").read_text() == "precious"
    finally:
        shutil.rmtree(folder)
