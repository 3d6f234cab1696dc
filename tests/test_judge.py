"""The judge's features equal those of clean-fid on the same files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid import features as cleanfid_features
from cleanfid import fid as cleanfid
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer

from gan_vkd.data.sets import load_heldout_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.evaluation import judge
from gan_vkd.evaluation.distances import frechet_distance
from gan_vkd.evaluation.evaluator import load_reference
from gan_vkd.evaluation.judge import INCEPTION_FILE, make_extractor, resized
from gan_vkd.networks.biggan import Generator
from gan_vkd.networks.sampling import draw_samples
from gan_vkd.runtime.errors import VkdError
from gan_vkd.teachers.settings import NetworkSettings
from tests.conftest import CPU, SHARES, write_pngs
from tests.real_data import SHARED, needs_shared


@pytest.mark.parametrize(
    ("name", "mode", "distances"),
    [
        ("inception", "clean", ("FID", "KID")),
        ("inception_legacy_tensorflow", "legacy_tensorflow",
         ("FID(legacy_tensorflow)", "KID(legacy_tensorflow)")),
    ],
)  # fmt: skip
def test_inception_features_equal_those_of_clean_fid(
    name: str, mode: str, distances: tuple[str, str], inception: Path, generator: Generator,
    tmp_path: Path,
) -> None:  # fmt: skip
    extractor = make_extractor(NetworkSettings(name=name, weights=str(inception)), 32, "cpu")
    assert (extractor.frechet_name, extractor.kernel_name) == distances
    images = draw_samples(generator, SHARES, 12, 10, 0)
    with pytest.MonkeyPatch.context() as patch:  # clean-fid's own extractor of the mode
        patch.setattr(
            cleanfid_features, "InceptionV3W",
            lambda path, download, resize_inside: InceptionV3W(
                str(as_published(inception, tmp_path)), False, resize_inside
            ),
        )  # fmt: skip
        own = cleanfid_features.build_feature_extractor(mode, CPU, use_dataparallel=False)
    expected = cleanfid.get_folder_features(
        write_pngs(images, tmp_path / "png"), own, num_workers=0, device=CPU, mode=mode,
        verbose=False,
    )  # fmt: skip
    np.testing.assert_allclose(extractor.features(images, 5), expected, rtol=1e-5, atol=1e-5)


def by_pillow(images: torch.Tensor) -> torch.Tensor:
    """uint8 images (N, 3, H, W) -> (N, 3, 299, 299) by clean-fid's own resizer."""
    resize = build_resizer("clean")
    found = [resize(image.permute(1, 2, 0).numpy()) for image in images]
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("size", "error"), [(32, 1e-3), (64, 2e-3), (256, 1e-2), (299, 0), (640, 1.5e-2)]
)
def test_images_are_resized_as_by_pillow(size: int, error: float) -> None:
    """Black and white noise, which overshoots the range most; the error is in grey values."""
    source = torch.Generator().manual_seed(size)
    images = 255 * torch.randint(2, (2, 3, size, size), dtype=torch.uint8, generator=source)
    found, expected = resized(images.float()), by_pillow(images)
    assert (found - expected).abs().max() <= error
    assert found.min() >= 0
    assert found.max() <= 255


@needs_shared
def test_resizing_does_not_change_the_distance_of_a_real_network() -> None:
    weights = SHARED / "weights" / "efficientnet_lite" / "tf_efficientnet_lite0.safetensors"
    network = NetworkSettings(name="timm/tf_efficientnet_lite0", weights=str(weights), size=299)
    extractor = make_extractor(network, 299, "cpu")
    source = str(SHARED / "data" / "cifar10-subset" / "test.zip")
    images = load_reference(source, DataSettings(source="x", num_images=3)).images[:48]
    with torch.no_grad():
        ours, theirs = (
            extractor.model(enlarged).numpy()
            for enlarged in (resized(images.float()), by_pillow(images))
        )
    expected = frechet_distance(theirs[:24], theirs[24:])
    assert frechet_distance(ours[:24], ours[24:]) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(ours, theirs) < 1e-6 * expected


def as_published(file: Path, folder: Path) -> Path:
    """Copies the file into the folder under the published name; returns the folder."""
    shutil.copy(file, folder / INCEPTION_FILE)
    return folder


def test_inception_may_be_given_by_its_folder(
    inception: Path, generator: Generator, tmp_path: Path
) -> None:
    images = draw_samples(generator, SHARES, 12, 10, 0)
    found = [
        make_extractor(NetworkSettings(name="inception", weights=str(path)), 32, "cpu").features(
            images, 5
        )
        for path in (inception, as_published(inception, tmp_path))
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("content", [None, b"", b"not a script"])
def test_a_missing_or_wrong_inception_is_a_one_line_error(
    content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "weights.pt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(VkdError) as error:
        make_extractor(NetworkSettings(name="inception", weights=str(file)), 32, "cpu")
    assert str(file) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_another_torchscript_program_is_not_run(
    inception: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # restore the published digest
    monkeypatch.setattr(torch.jit, "load", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(VkdError, match=r"damaged, or not the published inception-2015-12-05\.pt"):
        make_extractor(NetworkSettings(name="inception", weights=str(inception)), 32, "cpu")


def test_inception_is_downloaded_once_and_verified(
    inception: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = []

    def fetch(url: str, file: str, hash_prefix: str, progress: bool) -> None:
        requested.append((url.rpartition("/")[2], hash_prefix))
        shutil.copy(inception, file)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        make_extractor(NetworkSettings(name="inception"), 32, "cpu")
    assert requested == [("inception-2015-12-05.pt", judge.INCEPTION_SHA256)]


def test_a_failed_download_of_inception_says_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **options: object) -> None:
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(VkdError, match=r"--inception PATH") as error:
        make_extractor(NetworkSettings(name="inception"), 32, "cpu")
    assert len(str(error.value).splitlines()) == 1


def test_another_input_size_is_part_of_the_name(classifier: Path) -> None:
    chosen = NetworkSettings(name="classifier", weights=str(classifier), size=16)
    extractor = make_extractor(chosen, 32, "cpu")
    assert extractor.frechet_name == "FD(classifier@16)"
    assert extractor.kernel_name == "KD(classifier@16)"
    assert extractor.features(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), 2).shape == (2, 64)


@needs_shared
@pytest.mark.parametrize(
    ("size", "name"),
    [(None, "tf_efficientnet_lite2"), (260, "tf_efficientnet_lite2"),
     (128, "tf_efficientnet_lite2@128")],
)  # fmt: skip
def test_the_default_input_size_is_not_part_of_the_name(size: int | None, name: str) -> None:
    weights = SHARED / "weights" / "efficientnet_lite" / "tf_efficientnet_lite2.safetensors"
    chosen = NetworkSettings(name="timm/tf_efficientnet_lite2", weights=str(weights), size=size)
    extractor = make_extractor(chosen, 32, "cpu")
    assert extractor.frechet_name == f"FD(timm/{name})"
    images = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    assert extractor.features(images, 1).shape == (1, 1280)


@needs_shared
def test_the_distance_equals_clean_fid_on_real_images(tmp_path: Path) -> None:
    data = SHARED / "data" / "cifar10-subset"
    train = load_reference(str(data / "train.zip"), DataSettings(source="x", num_images=3))
    heldout = load_heldout_set(DataSettings(source="x", heldout=str(data / "test.zip")))
    assert heldout is not None
    weights = str(SHARED / "weights" / "cifar_resnet" / "resnet20-12fca82f.th")
    extractor = make_extractor(NetworkSettings(name="cifar_resnet20", weights=weights), 32, "cpu")
    images = train.images[::10]
    found = frechet_distance(
        extractor.features(images, 100), extractor.features(heldout.images, 100)
    )
    expected = cleanfid.compute_fid(
        write_pngs(images, tmp_path / "a"), write_pngs(heldout.images, tmp_path / "b"),
        custom_feat_extractor=extractor.model, device=CPU, custom_fn_resize=lambda x: x,
        num_workers=0, verbose=False, use_dataparallel=False,
    )  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-4)
