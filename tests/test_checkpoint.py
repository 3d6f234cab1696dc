"""Checkpoints are restored bit for bit or refused."""

import os
import pickle
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gan_vkd.networks.weights import load_foreign
from gan_vkd.runtime.checkpoint import load_state, load_weights, save_state, save_weights
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import write_atomically
from tests.conftest import small_disk


def assert_same(a, b) -> None:
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
    elif isinstance(a, dict):
        assert isinstance(b, dict)
        assert list(a) == list(b)
        assert [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert isinstance(b, list)
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert type(a) is type(b)
        assert a == b


def round_trip(path: Path, state: dict) -> dict:
    save_state(path, state)
    return load_state(path)


def refusal(path: Path) -> str:
    with pytest.raises(VkdError) as caught:
        load_state(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    assert str(path) in message
    return message


# round trips


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"a": None, "b": True, "c": 1, "d": 0.1, "e": "ü\n\"'", "f": [], "g": {}, "h": [[1], {}]},
        {"inf": float("inf"), "small": 5e-324, "large": 2**200},
        {1: {2: torch.ones(2)}, "1": {"2": torch.zeros(2)}, "1/2": torch.full((2,), 2.0)},
        {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, "": {"": torch.ones(3)}},
        {"list": [torch.ones(1), [torch.zeros(2)], {"x": torch.ones(3)}], "pair": (1, (2,))},
        {"$tensor": "no tensor", "$dict": {"$tensor": torch.ones(1)}},
        {"empty": torch.empty(0), "flat": torch.empty(3, 0, 2), "scalar": torch.tensor(3.5)},
        {"strided": torch.arange(12).view(3, 4).T, "nan": torch.tensor([float("nan"), -0.0])},
        {"last": torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)},
    ],
    ids=lambda state: ",".join(map(repr, state)),
)
def test_nested_states_are_restored(state, tmp_path):
    assert_same(state, round_trip(tmp_path / "s.safetensors", state))


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
     torch.uint8, torch.bool],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
def test_all_dtypes_and_shapes_are_restored(dtype, shape, tmp_path):
    tensor = (torch.rand(shape) * 4).to(dtype)
    assert_same({"x": tensor}, round_trip(tmp_path / "s.safetensors", {"x": tensor}))


def test_tensors_that_share_memory_are_restored_separately(tmp_path):
    base = torch.arange(6.0)
    state = round_trip(tmp_path / "s.safetensors", {"all": base, "part": base[2:4], "same": base})
    state["all"].zero_()
    assert state["part"].tolist() == [2, 3]
    assert torch.equal(state["same"], base)


def test_adam_continues_identically(tmp_path):
    def make() -> tuple[torch.nn.Module, torch.optim.Adam]:
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
        return network, torch.optim.Adam(network.parameters(), 0.1, (0.0, 0.999))

    def steps(network, optimizer, first: int, last: int) -> None:
        for i in range(first, last):
            optimizer.zero_grad()
            network(torch.arange(3.0) + i).square().sum().backward()
            optimizer.step()

    network, optimizer = make()
    steps(network, optimizer, 0, 3)
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
    saved = round_trip(tmp_path / "s.safetensors", state)
    steps(network, optimizer, 3, 6)
    other, other_optimizer = make()
    other.load_state_dict(saved["network"])
    other_optimizer.load_state_dict(saved["optimizer"])
    steps(other, other_optimizer, 3, 6)
    assert_same(network.state_dict(), other.state_dict())


# damage

SMALL = {"a": torch.arange(5.0), "n": {1: torch.tensor([True]), "x": 3, "y": [None, 0.5]}}


def test_no_single_flipped_bit_is_loaded(tmp_path):
    path = tmp_path / "s.safetensors"
    save_state(path, SMALL)
    whole = path.read_bytes()
    for position in range(8 * len(whole)):
        data = bytearray(whole)
        data[position // 8] ^= 1 << position % 8
        path.write_bytes(data)
        refusal(path)
    path.write_bytes(whole)
    assert_same(SMALL, load_state(path))


def test_flipped_bits_in_a_large_file_are_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    save_state(path, {"weights": torch.zeros(50_000)})
    whole = path.read_bytes()
    for position in np.random.default_rng(1).integers(0, len(whole), 60).tolist():
        data = bytearray(whole)
        data[position] ^= 0x10
        path.write_bytes(data)
        refusal(path)


def test_no_truncation_is_loaded(tmp_path):
    path = tmp_path / "s.safetensors"
    save_state(path, SMALL)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)
    path.write_bytes(whole + b"\0")
    refusal(path)


def test_exchanged_tensors_are_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    save_state(path, {"a": torch.zeros(100), "b": torch.ones(100)})
    data = path.read_bytes()
    path.write_bytes(data[:-800] + data[-400:] + data[-800:-400])
    assert "checksum" in refusal(path)


def test_files_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    save_file({"x": torch.ones(2)}, path)
    refusal(path)
    save_file({"x": torch.ones(2)}, path, {"tree": "{}", "sha256": "0" * 64})
    refusal(path)
    for content in (b"", b"\0" * 64, b"\xff" * 64, b"PK\x03\x04", b"{}", os.urandom(1000)):
        path.write_bytes(content)
        refusal(path)
    torch.save({"x": torch.ones(2)}, path)
    refusal(path)
    refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "nowhere")


class Trap:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_shut_file_is_not_called_damaged(tmp_path, monkeypatch):
    file = tmp_path / "shut.safetensors"
    save_weights(file, {"w": torch.ones(2)}, {})
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for load in (load_state, load_weights, load_foreign):
        with pytest.raises(VkdError, match=r"shut.safetensors: cannot be read \(Permission denied"):
            load(file)


def test_a_pickle_is_refused_without_running_it(tmp_path):
    path, sprung = tmp_path / "s.safetensors", tmp_path / "sprung"
    path.write_bytes(pickle.dumps({"x": Trap(sprung)}))
    refusal(path)
    assert not sprung.exists()
    pickle.loads(path.read_bytes())
    assert sprung.exists(), "the pickle has an effect when it is loaded"


# writing


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), OSError(28, "No space"), KeyboardInterrupt()]
)
def test_a_failed_write_keeps_the_old_file(error, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write(file: IO[bytes]) -> None:
        file.write(b"half")
        raise error

    expected = VkdError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        write_atomically(path, write)
    if expected is VkdError:
        assert str(path) in str(caught.value)
        assert "No space" in str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_old_file_is_kept_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "deep" / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def write(file: IO[bytes]) -> None:
        file.write(b"new")
        assert path.read_text() == "old"

    write_atomically(path, write)
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["file"]


def blocked_targets(root: Path) -> list[Path]:
    (root / "file").write_text("")
    (root / "folder").mkdir()
    return [root / "file" / "x", root / "file" / "x" / "y", root / "folder", root / ("n" * 300)]


@pytest.mark.parametrize("index", range(4))
def test_an_unwritable_target_is_a_one_line_error(index, tmp_path):
    path = blocked_targets(tmp_path)[index]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(VkdError) as caught:
        save_state(path, SMALL)
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path):
    path = tmp_path / "s.safetensors"
    save_state(path, SMALL)
    with small_disk(20_000), pytest.raises(VkdError, match="cannot be written"):
        save_state(path, {"large": torch.zeros(100_000)})
    assert_same(SMALL, load_state(path))
    assert os.listdir(tmp_path) == ["s.safetensors"]
