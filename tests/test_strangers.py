"""A stranger's run folder, whatever is in it, is read, or refused in one line, and nothing else
happens: no traceback, no long wait, no write outside of the folders that the command names."""

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gan_vkd import cli
from gan_vkd.run import Run
from gan_vkd.runtime.checkpoint import digest, load_state, save_state
from gan_vkd.training import train
from tests.conftest import MakeSettings

EXAMPLES = int(os.environ.get("VKD_STRANGERS", "400"))
SECONDS = 5
MEMORY = 2**30  # bytes more than before

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6),
    st.sampled_from(
        [[], {}, [[]], {"a": 1}, "x" * 100_000, 10**30, -1, 2**63, 1e308, "\x1b[2J", "a\nb", "$x$",
         "\ud800", "=cmd()", "a|b", "../..", "/dev/zero", "nan"]
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def victim(small_module: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that was trained for two iterations."""
    folder = tmp_path_factory.mktemp("strangers") / "run"
    train(small_module("train.iterations=2", "evaluate.every=2"), folder)
    return folder


@pytest.fixture(scope="module")
def small_module(classifier: Path) -> MakeSettings:
    from tests.conftest import small

    return small.__wrapped__(classifier)  # type: ignore[attr-defined]


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


CHANGES = [odd_settings, odd_text, odd_records, odd_facts, odd_checkpoint, odd_names]
COMMANDS = [
    ["sample", "RUN", "--out", "OUT/grid.png"],
    ["compare", "RUN", "--out", "OUT"],
    ["export", "RUN", "OUT/g.safetensors"],
    ["evaluate", "RUN", "evaluate.num_samples=20"],
    ["train", "RUN", "--resume", "--max-time", "3s"],
]


@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(st.data())
def test_any_run_folder_is_read_or_refused_in_one_line(
    victim: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    base = tmp_path_factory.mktemp("case")
    try:
        run, outside = base / "run", base / "outside"
        shutil.copytree(victim, run, symlinks=True)
        outside.mkdir()
        (outside / "precious").write_text("precious")
        for change in data.draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=2)):
            try:
                change(run, data.draw)
            except (OSError, ValueError, KeyError, TypeError, IndexError):
                return  # the first change left nothing for the second
        before = snapshot(base)
        command = data.draw(st.sampled_from(COMMANDS))
        words = [w.replace("RUN", str(run)).replace("OUT", str(base / "out")) for w in command]
        code, said, seconds, grown = called(words)
        told = (words, code, said[-500:])
        assert code in (0, 1, 2, 124), told
        assert "Traceback" not in said, told
        if code:
            assert said.startswith("vkd: "), told
            assert all(line.startswith("vkd: ") for line in said.splitlines()), told
            assert len(said) < 5000, told
        assert "\x1b" not in said, told
        assert seconds < SECONDS, told
        assert grown < MEMORY, told
        after = snapshot(base)
        allowed = {base / "out"} | ({run} if command[0] in ("evaluate", "train") else set())
        changed = {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
        strange = [p for p in changed if not any(a == p or a in p.parents for a in allowed)]
        assert not strange, told
    finally:
        shutil.rmtree(base)


def called(words: list[str]) -> tuple[int, str, float, int]:
    """Exit code, standard error, seconds and bytes of more memory of a command."""
    import contextlib
    import io

    said, shown = io.StringIO(), io.StringIO()
    memory, since = peak(), time.perf_counter()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown),
    ):  # fmt: skip
        patch.setattr(sys, "argv", ["vkd", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
    lines = [line.rpartition("\r")[2] for line in said.getvalue().splitlines()]
    text = "\n".join(line for line in lines if line.strip() and "it/s" not in line)
    return code, text, time.perf_counter() - since, peak() - memory


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def snapshot(folder: Path) -> dict[Path, Any]:
    """Every path with its kind, and the content of what is not in the run or the output."""
    found: dict[Path, Any] = {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent, name)
            status = path.lstat()
            found[path] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found
