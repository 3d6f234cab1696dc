from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gan_vkd.data.batches import Batches
from gan_vkd.data.image_set import ImageSet, to_network
from gan_vkd.distill import Layer, Teacher
from gan_vkd.teachers.features import FeatureBank, load_bank, load_views


class Network(nn.Module):
    def __init__(self, slope: float = 0.1) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 5, 3, 2)
        self.act = nn.LeakyReLU(slope)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.first(x)))


def build(
    *layers: str, seed: int = 0, mean: float = 0.5, size: int | None = None, slope=0.1, **options
) -> Teacher:
    torch.manual_seed(seed)
    return Teacher(
        Network(slope),
        mean=(mean,) * 3,
        std=(0.5,) * 3,
        size=(size, size) if size else None,
        layers=[Layer(name) for name in layers or ("", "first")],
        probe=16,
        **options,
    )


def images(count: int = 30, seed: int = 0) -> ImageSet:
    source = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=source)
    names = [str(i) for i in range(count)]
    return ImageSet(pixels, torch.arange(count) % 3, ["a", "b", "c"], names)


class Counting(nn.Module):
    """Counts the images in the teacher's forward passes."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.shown = 0
        teacher.register_forward_pre_hook(self.count)

    def count(self, module: nn.Module, args: tuple[Tensor]) -> None:
        self.shown += len(args[0])


@pytest.mark.parametrize("flip", [False, True])
def test_looked_up_features_are_those_of_the_teacher(flip: bool, tmp_path: Path) -> None:
    teacher, data = build(), images()
    for folder in (None, tmp_path, tmp_path):  # computed, computed and cached, read
        bank = load_bank(teacher, data, flip, folder)
        batches = Batches(data, 20, flip=flip, seed=0, device="cpu")
        for number in range(3):
            batch = batches(number)
            found = bank(batch.indices, batch.flipped)
            torch.testing.assert_close(found, teacher(batch.images), rtol=1e-5, atol=1e-6)


def test_a_cached_file_replaces_the_teachers_forward(tmp_path: Path) -> None:
    teacher, data = build(), images(300)
    counting = Counting(teacher)
    first = load_bank(teacher, data, True, tmp_path)
    assert counting.shown == 600
    again = load_bank(teacher, data, True, tmp_path)
    assert counting.shown == 608  # eight, to check the cached features
    assert torch.equal(first.features, again.features)


def test_views_are_augmented_and_reproducible(tmp_path: Path) -> None:
    teacher, data = build(), images(230)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = load_views(teacher, data, ["cutout"], tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == second.shape == (230, teacher.width)
    clean = teacher(to_network(data.images))
    for one, other in ((first, second), (first, clean), (second, clean)):
        assert ((one - other).abs().amax(1) > 1e-3).float().mean() > 0.9
    counting = Counting(teacher)
    torch.manual_seed(2)
    again = load_views(teacher, data, ["cutout"], tmp_path)
    assert counting.shown == 8
    assert torch.equal(again[0], first)
    torch.testing.assert_close(load_views(teacher, data, ["cutout"], None)[1], second)
    plain = load_views(teacher, data, [], tmp_path)
    for view in plain:  # another augmentation has another file
        torch.testing.assert_close(view, clean, rtol=1e-5, atol=1e-6)


def test_every_input_of_the_features_is_part_of_the_cache_key(tmp_path: Path) -> None:
    changed = images()
    changed.images[3, 0, 0, 0] ^= 1
    cases = [
        (build(), images(), True),
        (build(), images(), False),
        (build(), changed, True),
        (build(), images(31), True),
        (build(seed=1), images(), True),
        (build(slope=0.2), images(), True),
        (build(mean=0.4), images(), True),
        (build(size=20), images(), True),
        (build(size=20, enlarge="nearest"), images(), True),
        (build("first"), images(), True),
        (build("", "second"), images(), True),
    ]
    for number, (teacher, data, flip) in enumerate(cases, start=1):
        bank = load_bank(teacher, data, flip, tmp_path)
        assert len(list(tmp_path.iterdir())) == number
        torch.testing.assert_close(
            bank.features[: len(data)], teacher(to_network(data.images)), rtol=1e-5, atol=1e-6
        )


def test_stale_cached_features_are_recomputed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a library update that changes the resizing."""
    data = images()
    load_bank(build(), data, True, tmp_path)
    forward = Teacher.forward
    monkeypatch.setattr(Teacher, "forward", lambda self, x: forward(self, 0.9 * x))
    bank = load_bank(build(), data, True, tmp_path)
    (file,) = tmp_path.iterdir()
    assert f"features are computed again: {file}: differs from" in capsys.readouterr().out
    torch.testing.assert_close(bank.features[:30], build()(to_network(data.images)))
    load_bank(build(), data, True, tmp_path)
    assert capsys.readouterr().out == ""


def garbage(file: Path) -> None:
    file.write_bytes(b"garbage")


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 16
    file.write_bytes(data)


def foreign(file: Path) -> None:
    save_file(load_file(file), file)


@pytest.mark.parametrize("harm", [garbage, cut_off, empty, flip_a_bit, foreign])
def test_damaged_files_are_named_and_replaced(
    harm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, data = build(), images()
    expected = load_bank(teacher, data, True, tmp_path).features
    (file,) = tmp_path.iterdir()
    harm(file)
    assert torch.equal(load_bank(teacher, data, True, tmp_path).features, expected)
    assert f"features are computed again: {file}" in capsys.readouterr().out
    load_bank(teacher, data, True, tmp_path)
    assert capsys.readouterr().out == ""


def test_an_unwritable_cache_folder_is_only_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    bank = load_bank(build(), images(), False, tmp_path / "file" / "cache")
    assert isinstance(bank, FeatureBank)
    assert "features are not cached: " in capsys.readouterr().out
