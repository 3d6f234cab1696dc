"""Image sets, their subsets and batches, which depend on names and seeds only."""

import hashlib
import io
import pickle
import zipfile
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from gan_vkd.data.batches import Batches
from gan_vkd.data.image_set import ImageSet, draw_subset, to_network, to_uint8
from gan_vkd.data.sets import load_heldout_set, load_training_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.runtime.errors import SettingsError, VkdError
from tests.real_data import SHARED, needs_shared

# subsets

NAMES = [f"img{i:03d}" for i in range(200)]
LABELS = [(i * i) % 7 % 5 for i in range(200)]  # classes of unequal sizes


def slow_subset(names: list[str], labels: list[int], count: int, seed: int) -> set[str]:
    """Returns the subset by the Sainte-Lague rule: each next image to the class of largest
    n / (2 s + 1)."""
    rank = {name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in names}
    waiting: dict[int, list[str]] = {}
    for name, label in zip(names, labels, strict=True):
        waiting.setdefault(label, []).append(name)
    for members in waiting.values():
        members.sort(key=rank.__getitem__)
    sizes, chosen = Counter(labels), []
    for _ in range(count):
        label = min(
            (c for c in waiting if waiting[c]),
            key=lambda c: (
                -Fraction(sizes[c], 2 * (sizes[c] - len(waiting[c])) + 1),
                rank[waiting[c][0]],
            ),
        )
        chosen.append(waiting[label].pop(0))
    return set(chosen)


def named(indices: list[int], names: list[str] = NAMES) -> set[str]:
    assert len(set(indices)) == len(indices)
    return {names[i] for i in indices}


@pytest.mark.parametrize("count", [1, 2, 3, 17, 50, 101, 199, 200])
@pytest.mark.parametrize("seed", [0, 1])
def test_subsets_match_a_slow_implementation(count, seed):
    chosen = draw_subset(NAMES, LABELS, count, seed)
    assert len(chosen) == count
    assert chosen == sorted(chosen)
    assert named(chosen) == slow_subset(NAMES, LABELS, count, seed)


@pytest.mark.parametrize("count", [1, 13, 50, 101, 199])
def test_subsets_are_stratified(count):
    taken = Counter(LABELS[i] for i in draw_subset(NAMES, LABELS, count, 3))
    for label, size in Counter(LABELS).items():
        assert abs(taken[label] - count * size / len(NAMES)) < 1


@pytest.mark.parametrize("labels", [[0] * 200, [i % 7 for i in range(200)], LABELS])
def test_subsets_of_one_seed_are_nested(labels):
    draws = [named(draw_subset(NAMES, labels, count, 0)) for count in range(1, 201)]
    assert all(small < large for small, large in pairwise(draws))


def test_subsets_do_not_depend_on_the_order():
    order = np.random.default_rng(0).permutation(200).tolist()
    names, labels = [NAMES[i] for i in order], [LABELS[i] for i in order]
    for count in (10, 77):
        shuffled = named(draw_subset(names, labels, count, 5), names)
        assert shuffled == named(draw_subset(NAMES, LABELS, count, 5))


def test_subsets_of_other_seeds_differ():
    draws = {frozenset(named(draw_subset(NAMES, LABELS, 50, seed))) for seed in range(20)}
    assert len(draws) == 20
    # independent draws of 50 of 200 share a quarter; sd of the mean over 190 pairs is below 1
    overlaps = [len(a & b) for a in draws for b in draws if a is not b]
    assert 9 < np.mean(overlaps) < 16


def test_subsets_accept_names_that_are_not_unicode():
    names = [b"caf\xe9.png".decode(errors="surrogateescape"), "b.png"]
    assert len(draw_subset(names, [0, 0], 1, 0)) == 1


# folders


def write_folder(root, counts: dict[str, int], size: int = 32):
    random = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("subset", "expected"),
    [({"num_images": 6}, 6), ({"fraction": 0.5}, 6), ({"fraction": 1.0}, 12), ({}, 12)],
)
def test_the_training_set_has_the_requested_size(subset, expected, tmp_path):
    root = write_folder(tmp_path, {"cat": 4, "dog": 8})
    data = load_training_set(DataSettings(source=str(root), **subset))
    assert len(data) == len(data.images) == len(data.labels) == expected
    assert data.images.shape[1:] == (3, 32, 32)
    assert data.images.dtype == torch.uint8
    assert data.classes == ["cat", "dog"]
    assert Counter(data.labels.tolist()) == {0: expected // 3, 1: 2 * expected // 3}
    for name, label, image in zip(data.names, data.labels, data.images, strict=True):
        assert name.startswith(data.classes[label])
        np.testing.assert_array_equal(image.permute(1, 2, 0), np.asarray(Image.open(root / name)))


@pytest.mark.parametrize("subset", [{"num_images": 13}, {"fraction": 0.01}])
def test_impossible_subset_sizes_are_refused(subset, tmp_path):
    root = write_folder(tmp_path, {"cat": 4, "dog": 8})
    with pytest.raises(SettingsError, match=r"^data: a subset of \d+ images, .* has 12$"):
        load_training_set(DataSettings(source=str(root), **subset))


@pytest.mark.parametrize("heldout", [None, "test"])
def test_a_folder_may_have_no_heldout_set(heldout, tmp_path):
    root = write_folder(tmp_path, {"cat": 2})
    assert load_heldout_set(DataSettings(source=str(root), heldout=heldout)) is None


def test_a_heldout_folder_is_read_completely(tmp_path):
    train, other = write_folder(tmp_path / "a", {"x": 2}), write_folder(tmp_path / "b", {"x": 3})
    settings = DataSettings(source=str(train), heldout=str(other), num_images=1)
    heldout = load_heldout_set(settings)
    assert heldout is not None
    assert len(heldout) == 3


def test_the_fingerprint_depends_on_pixels_and_labels():
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    base = ImageSet(images, torch.tensor([0, 1]), ["a", "b"], ["x", "y"])
    renamed = ImageSet(images.clone(), torch.tensor([0, 1]), ["c", "d"], ["p", "q"])
    assert renamed.fingerprint() == base.fingerprint()
    changed = images.clone()
    changed[1, 2, 3, 3] ^= 1
    others = [
        ImageSet(changed, base.labels, base.classes, base.names),
        ImageSet(images, torch.tensor([1, 0]), base.classes, base.names),
        ImageSet(images.view(2, 3, 2, 8), base.labels, base.classes, base.names),
    ]
    assert len({base.fingerprint(), *(other.fingerprint() for other in others)}) == 4


# numbers


def test_conversion_to_network_range_is_lossless():
    every = torch.arange(256, dtype=torch.uint8)
    network = to_network(every)
    assert network.dtype == torch.float32
    assert (network[0], network[255]) == (-1, 1)
    assert torch.equal(to_uint8(network), every)


def test_values_beyond_the_range_are_clamped():
    assert to_uint8(torch.tensor([-9.0, -1.01, 1.01, 9.0])).tolist() == [0, 0, 255, 255]


# batches


def numbered_set(count: int) -> ImageSet:
    """Returns a set whose image i is i in its left half and 255 - i in its right half."""
    values = torch.arange(count, dtype=torch.uint8)[:, None, None, None]
    images = torch.cat([values.expand(-1, 3, 4, 2), (255 - values).expand(-1, 3, 4, 2)], 3)
    names = [str(i) for i in range(count)]
    return ImageSet(images.contiguous(), torch.arange(count), names, names)


def batches(count: int, size: int, *, flip: bool = False, seed: int = 0) -> Batches:
    return Batches(numbered_set(count), size, flip=flip, seed=seed, device="cpu")


@pytest.mark.parametrize("size", [1, 3, 10, 17, 30, 64])
def test_every_epoch_is_a_permutation(size):
    draw = batches(30, size)
    stream = torch.cat([draw(number).labels for number in range(-(-90 // size))])[:90]
    for epoch in stream.split(30):
        assert sorted(epoch.tolist()) == list(range(30))
    assert len({tuple(epoch.tolist()) for epoch in stream.split(30)}) == 3


def test_batches_depend_on_seed_and_number_only():
    once, again = batches(30, 7), batches(30, 7)
    forwards = [once(number).labels for number in range(20)]
    torch.manual_seed(99)
    for number in (19, 0, 7, 8, 3, 12):
        images, labels, indices, flipped = again(number)
        assert torch.equal(labels, forwards[number])
        assert torch.equal(labels, indices)  # the numbered set's labels are its indices
        assert not flipped.any()
        assert torch.equal(images, to_network(numbered_set(30).images[labels]))


def test_the_order_of_images_does_not_depend_on_the_batch_size():
    streams = [
        torch.cat([draw(number).labels for number in range(60 // size)])
        for size in (4, 10, 60)
        for draw in [batches(30, size)]
    ]
    assert all(torch.equal(stream, streams[0]) for stream in streams)


def test_other_seeds_give_other_orders():
    orders = {tuple(batches(30, 30, seed=seed)(0).labels.tolist()) for seed in range(10)}
    assert len(orders) == 10


def test_flips_mirror_about_half_of_the_images():
    torch.manual_seed(0)
    draw, flipped = batches(100, 100, flip=True), 0
    for number in range(20):
        images, _, indices, flags = draw(number)
        straight = to_network(numbered_set(100).images[indices])
        mirrored = straight.flip(3)
        same = (images == straight).flatten(1).all(1)
        turned = (images == mirrored).flatten(1).all(1)
        assert (same ^ turned).all()
        assert torch.equal(turned, flags)
        flipped += int(turned.sum())
    # 2,000 fair coin flips: five standard deviations are 112
    assert abs(flipped - 1000) < 112


def test_random_labels_have_the_frequencies_of_the_set():
    torch.manual_seed(0)
    labels = torch.tensor([0] * 10 + [2] * 30)
    data = ImageSet(
        torch.zeros(40, 3, 2, 2, dtype=torch.uint8), labels, list("abc"), list("x" * 40)
    )
    draw = Batches(data, 4, flip=False, seed=0, device="cpu").random_labels(4000)
    counts = torch.bincount(draw, minlength=3)
    assert counts[1] == 0
    assert abs(int(counts[0]) - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5


# digits


@pytest.mark.parametrize("resolution", [32, 64])
def test_digits_are_split_without_overlap(resolution):
    settings = DataSettings(source="digits", resolution=resolution)
    train, test = load_training_set(settings), load_heldout_set(settings)
    assert test is not None
    assert (len(train), len(test)) == (1500, 297)
    assert not set(train.names) & set(test.names)
    for data in (train, test):
        assert data.images.shape == (len(data), 3, resolution, resolution)
        assert data.classes == list("0123456789")
        assert set(data.labels.tolist()) == set(range(10))
        assert (data.images[:, 0] == data.images[:, 1]).all()


# CIFAR


def write_cifar(root, name: str, monkeypatch) -> dict[bool, tuple[np.ndarray, list[int]]]:
    """Writes a small set in torchvision's format and replaces torchvision's checksums."""
    dataset = torchvision.datasets.CIFAR10 if name == "cifar10" else torchvision.datasets.CIFAR100
    folder, classes = root / dataset.base_folder, 10 if name == "cifar10" else 100
    folder.mkdir(parents=True)
    key = "labels" if name == "cifar10" else "fine_labels"
    random = np.random.default_rng(0)

    def write(file: str, content: dict) -> str:
        (folder / file).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / file).read_bytes()).hexdigest()

    truth: dict[bool, tuple[np.ndarray, list[int]]] = {}
    for train, attribute in ((True, "train_list"), (False, "test_list")):
        images, targets, sums = [], [], []
        for file, _ in getattr(dataset, attribute):
            pixels = random.integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
            labels = random.integers(0, classes, 20).tolist()
            sums.append([file, write(file, {"data": pixels.reshape(20, -1), key: labels})])
            images.append(pixels)
            targets += labels
        monkeypatch.setattr(dataset, attribute, sums)
        truth[train] = (np.concatenate(images), targets)
    meta = dict(dataset.meta)
    meta["md5"] = write(meta["filename"], {meta["key"]: [f"class{i}" for i in range(classes)]})
    monkeypatch.setattr(dataset, "meta", meta)
    return truth


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_is_read_from_torchvisions_files(name, classes, tmp_path, monkeypatch):
    truth = write_cifar(tmp_path, name, monkeypatch)
    settings = DataSettings(source=name, root=str(tmp_path), download=False)
    sets = {True: load_training_set(settings), False: load_heldout_set(settings)}
    for train, (pixels, labels) in truth.items():
        data = sets[train]
        assert data is not None
        np.testing.assert_array_equal(data.images, pixels)
        assert data.images.is_contiguous()
        assert data.labels.tolist() == labels
        assert data.classes == [f"class{i}" for i in range(classes)]
        assert len(set(data.names)) == len(labels)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_fraction_of_cifar_is_taken_from_the_training_set(name, tmp_path, monkeypatch):
    truth = write_cifar(tmp_path, name, monkeypatch)
    settings = DataSettings(source=name, root=str(tmp_path), download=False, fraction=0.1)
    assert len(load_training_set(settings)) == round(len(truth[True][0]) * 0.1)
    heldout = load_heldout_set(settings)
    assert heldout is not None
    assert len(heldout) == len(truth[False][0])


def test_damaged_cifar_is_refused(tmp_path, monkeypatch):
    write_cifar(tmp_path, "cifar10", monkeypatch)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(VkdError) as caught:
        load_training_set(DataSettings(source="cifar10", root=str(tmp_path), download=False))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("download", [False, True])
def test_missing_cifar_is_an_error_that_says_where_to_put_it(download, tmp_path, monkeypatch):
    def unreachable(self):
        raise URLError("no route\nto host")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", unreachable)
    settings = DataSettings(source="cifar10", root=str(tmp_path), download=download)
    with pytest.raises(VkdError) as caught:
        load_training_set(settings)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(tmp_path) in message
    assert "cifar-10-batches-py" in message
    assert "data.root" in message


def test_cifar_at_another_resolution_is_refused(tmp_path, monkeypatch):
    write_cifar(tmp_path, "cifar10", monkeypatch)
    settings = DataSettings(source="cifar10", root=str(tmp_path), download=False, resolution=64)
    with pytest.raises(SettingsError, match=r"data\.resolution=32"):
        load_training_set(settings)


# real images


@needs_shared
@pytest.mark.parametrize(("name", "count"), [("train", 5085), ("test", 1017)])
def test_real_images_match_their_files(name, count):
    path = SHARED / "data" / "cifar10-subset" / f"{name}.zip"
    data = load_training_set(DataSettings(source=str(path)))
    assert data.images.shape == (count, 3, 32, 32)
    assert len(data.classes) == 10
    assert set(data.labels.tolist()) == set(range(10))
    with zipfile.ZipFile(path) as archive:
        for index in (0, count // 2, count - 1):
            with Image.open(io.BytesIO(archive.read(data.names[index]))) as image:
                assert image.size == (32, 32)
                np.testing.assert_array_equal(data.images[index].permute(1, 2, 0), image)
            assert data.classes[data.labels[index]] in data.names[index]


@needs_shared
def test_a_subset_of_real_images_is_stratified():
    path = SHARED / "data" / "cifar10-subset" / "train.zip"
    full = load_training_set(DataSettings(source=str(path)))
    tenth = load_training_set(DataSettings(source=str(path), num_images=5000))
    sizes, taken = torch.bincount(full.labels), torch.bincount(tenth.labels)
    assert taken.sum() == 5000
    assert ((taken - sizes * 5000 / 5085).abs() < 1).all()


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "cifar-10-batches-py", "batch"])
def test_cifar_is_not_downloaded_through_a_link(name, tmp_path, monkeypatch):
    root, precious = tmp_path / "root", tmp_path / "precious"
    precious.write_text("precious")
    batches = root / "cifar-10-batches-py"
    link = batches / "data_batch_1" if name == "batch" else root / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path if name == batches.name else precious)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", lambda self: pytest.fail("is"))
    settings = DataSettings(source="cifar10", root=str(root), download=True)
    with pytest.raises(VkdError, match="a symbolic link, and nothing is written through it"):
        load_training_set(settings)
    assert precious.read_text() == "precious"
