"""Sets that memory does not hold: the same batches, to the bit, from memory or from a file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gan_vkd.data import batches as of_batches
from gan_vkd.data import storage
from gan_vkd.data.batches import Batches
from gan_vkd.data.image_set import ImageSet
from gan_vkd.data.sets import load_training_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.runtime import graphs
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.meter import Meter
from gan_vkd.training import train
from tests.conftest import MakeSettings
from tests.resuming import assert_resumes_identically
from tests.states import assert_identical
from tests.test_data import numbered_set, write_folder
from tests.test_graphs import assert_equal, build
from tests.test_graphs import train as steps


def streamed(data: ImageSet, size: int, resident: bool = False) -> Batches:
    return Batches(data, size, flip=True, seed=3, device="cpu", resident=resident)


@pytest.mark.parametrize("size", [1, 7, 30, 64])
def test_streamed_batches_are_those_of_a_resident_set(size: int) -> None:
    data, found = numbered_set(30), []
    for resident in (True, False):
        torch.manual_seed(0)
        draw = streamed(data, size, resident)
        assert (draw.stream is None) == resident
        found.append([draw(number) for number in (0, 1, 2, 3, 11, 4, 5, 0)])  # also out of order
    for one, other in zip(*found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_pixels_are_brought_to_one_place() -> None:
    """Captured steps read them there."""
    draw, places = streamed(numbered_set(30), 7), set()
    for number in range(9):
        draw.indices(number)
        assert draw.stream is not None
        places.add(draw.stream.pixels.data_ptr())
    assert len(places) == 1


def test_an_error_of_the_thread_is_raised() -> None:
    draw = streamed(numbered_set(30), 7)
    assert draw.stream is not None
    draw.stream.rows = lambda number: torch.tensor([30])
    with pytest.raises(IndexError):
        draw(0)


def test_a_set_is_streamed_if_it_takes_much_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    images = numbered_set(30).images  # 30 * 48 bytes
    for free, fits in ((30 * 48 * 4, True), (30 * 48 * 4 - 4, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        assert of_batches._fits(images, "cuda") == fits
    assert of_batches._fits(images, "cpu")


# files


def test_a_set_that_memory_does_not_hold_is_kept_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, kept = write_folder(tmp_path / "images", {"cat": 4, "dog": 8}), tmp_path / "kept"
    settings = DataSettings(source=str(root), num_images=7)
    expected = load_training_set(settings)
    capsys.readouterr()
    monkeypatch.setattr(storage, "free_memory", lambda: 0)
    found = load_training_set(settings, kept)
    assert capsys.readouterr().out.count(f"images are kept in a file in {kept}") == 2
    assert not list(kept.iterdir()), "the file has no name"
    assert found.fingerprint() == expected.fingerprint()
    assert torch.equal(found.images, expected.images)
    assert found.names == expected.names
    torch.manual_seed(0)
    one = streamed(expected, 5, resident=True)(3)
    torch.manual_seed(0)
    assert torch.equal(streamed(found, 5)(3).images, one.images)


def test_rows_are_copied_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BLOCK", 3)
    array = np.random.default_rng(0).integers(0, 256, (20, 2, 3), np.uint8)
    rows = [5, 0, 19, 7, 7, 2, 11]
    np.testing.assert_array_equal(storage.rows_of(array, rows), array[rows])
    assert storage.rows_of(array, list(range(20))) is array


def test_no_space_for_the_file_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(storage, "free_memory", lambda: 0)
    with pytest.raises(VkdError, match=r"no file of .* GiB for images .* set cache to a folder"):
        storage.empty((2**42, 2**10), tmp_path)


def test_free_memory_is_a_part_of_the_machines() -> None:
    assert 0 < storage.free_memory() < 2**50


# runs


def stream_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_batches, "_fits", lambda images, device: False)


def test_a_streamed_run_is_identical(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small(arm="none")
    train(settings, tmp_path / "resident")
    stream_always(monkeypatch)
    train(settings, tmp_path / "streamed")
    assert_identical(tmp_path / "resident", tmp_path / "streamed")


def test_captured_steps_read_streamed_batches(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "EAGER", 2)
    stream_always(monkeypatch)
    states = []
    for captured in (False, True):
        game, meter = build(small, tmp_path, captured, "none", "adversary=relativistic"), Meter()
        assert game.batches.stream is not None
        steps(game, 0, 6, meter)
        assert bool(game.updates.d_step.graphs) == bool(game.updates.g_step.graphs) == captured
        states.append(game.trainer.state())
    assert_equal(*states)


def test_a_streamed_run_resumes_identically(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream_always(monkeypatch)
    assert_resumes_identically(small(arm="none"), tmp_path)
