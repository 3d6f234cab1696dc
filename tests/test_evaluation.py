from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from scipy import linalg

from gan_vkd.config import NetworkSettings
from gan_vkd.data import ImageSet, load_heldout_set, to_uint8
from gan_vkd.errors import SettingsError, VkdError
from gan_vkd.evaluation import (
    INCEPTION_FILE,
    Evaluator,
    draw_samples,
    frechet_distance,
    isolated_randomness,
    load_reference,
    make_extractor,
)
from gan_vkd.models.biggan import Generator
from gan_vkd.pictures import class_grid, save_png
from tests.conftest import MakeSettings
from tests.real_data import SHARED, needs_shared

CPU = torch.device("cpu")
SHARES = [0.1] * 10


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(32, 2, 8, 10).eval()


def write_pngs(images: torch.Tensor, folder: Path) -> str:
    for index, image in enumerate(images):
        save_png(image, folder / f"{index:06d}.png")
    return str(folder)


class FakeInception(torch.nn.Module):
    """In the place of Inception's TorchScript: `layers` gives 2,048 numbers an image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.AvgPool2d(29, 10), torch.nn.Flatten(), torch.nn.Linear(3 * 28 * 28, 2048)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.fixture
def inception(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.jit.script(FakeInception()).save(str(tmp_path / "weights.pt"))
    return tmp_path / "weights.pt"


def test_the_distance_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(400, 6)), rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) + 1
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(linalg.sqrtm(cov_a) @ cov_b @ linalg.sqrtm(cov_a))
    shift = a.mean(0) - b.mean(0)
    expected = shift @ shift + np.trace(cov_a + cov_b - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_equal_to_clean_fid_on_the_same_files(
    small: MakeSettings, generator: Generator, tmp_path: Path
) -> None:
    """Distances from memory equal clean-fid's own from PNG files, on a custom extractor."""
    settings = small("evaluate.num_samples=150", arm="none")
    evaluator = Evaluator(settings, "cpu")
    found = evaluator(generator, SHARES)
    reference = load_reference("heldout", settings.data)
    fdir2 = write_pngs(reference.images, tmp_path / "reference")
    fdir1 = write_pngs(draw_samples(generator, SHARES, 150, 100, 0), tmp_path / "samples")
    expected = cleanfid.compute_fid(
        fdir1, fdir2, custom_feat_extractor=evaluator.extractor.model, device=CPU,
        custom_fn_resize=lambda x: x, num_workers=0, verbose=False, use_dataparallel=False,
    )  # fmt: skip
    assert found["FD(classifier)"] == pytest.approx(expected, rel=1e-4)


@needs_shared
def test_equal_to_clean_fid_on_real_images_and_a_published_network(tmp_path: Path) -> None:
    from gan_vkd.config import DataSettings

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


def test_inception_from_a_local_file_sees_what_clean_fid_shows_it(
    inception: Path, generator: Generator, tmp_path: Path
) -> None:
    extractor = make_extractor(NetworkSettings(name="inception", weights=str(inception)), 32, "cpu")
    assert (extractor.frechet_name, extractor.kernel_name) == ("FID", "KID")
    images = draw_samples(generator, SHARES, 12, 10, 0)
    expected = cleanfid.get_folder_features(
        write_pngs(images, tmp_path / "png"), extractor.model, num_workers=0, device=CPU,
        mode="clean", verbose=False,
    )  # fmt: skip
    np.testing.assert_allclose(extractor.features(images, 5), expected, rtol=1e-5, atol=1e-5)
    folder = tmp_path / "folder"
    folder.mkdir()
    inception.rename(folder / INCEPTION_FILE)
    again = make_extractor(NetworkSettings(name="inception", weights=str(folder)), 32, "cpu")
    np.testing.assert_array_equal(again.features(images, 5), extractor.features(images, 5))


def test_only_inception_features_are_called_fid(small: MakeSettings, generator: Generator) -> None:
    found = Evaluator(small(arm="none"), "cpu")(generator, SHARES)
    assert not {"FID", "KID"} & set(found)
    assert {"FD(classifier)", "KD(classifier)", "features", "num_samples"} <= set(found)


@pytest.mark.parametrize("content", [None, b"", b"not a script"])
def test_missing_or_wrong_inception_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(VkdError) as error:
        make_extractor(NetworkSettings(name="inception", weights=str(file)), 32, "cpu")
    assert str(file) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_unreachable_inception_says_where_to_put_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(**options: object) -> None:
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr("gan_vkd.evaluation.feature_extractor", unreachable)
    with pytest.raises(VkdError, match=r"--inception PATH") as error:
        make_extractor(NetworkSettings(name="inception"), 32, "cpu")
    assert len(str(error.value).splitlines()) == 1


def test_samples_depend_on_the_seed_alone(generator: Generator) -> None:
    torch.manual_seed(1)
    a = draw_samples(generator, SHARES, 20, 7, seed=3)
    torch.manual_seed(2)
    b = draw_samples(generator, SHARES, 20, 20, seed=3)
    assert (a.int() - b.int()).abs().max() <= 1  # batches of another size round otherwise
    assert not torch.equal(a, draw_samples(generator, SHARES, 20, 7, seed=4))
    assert a.dtype == torch.uint8
    assert a.shape == (20, 3, 32, 32)


def test_samples_follow_the_shares(generator: Generator) -> None:
    only = [float(c == 3) for c in range(10)]
    source = torch.Generator().manual_seed(0)
    torch.multinomial(torch.tensor(only), 5, replacement=True, generator=source)
    z = torch.randn(5, 8, generator=source)
    expected = to_uint8(generator(z, torch.full((5,), 3)))
    assert torch.equal(draw_samples(generator, only, 5, 5, seed=0), expected)


def test_evaluation_leaves_no_trace_in_the_random_state(
    small: MakeSettings, generator: Generator
) -> None:
    evaluator = Evaluator(small(arm="none"), "cpu")
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    first = evaluator(generator, SHARES)
    assert torch.equal(torch.rand(3), before[0])
    assert (np.random.rand(3) == before[1]).all()
    assert evaluator(generator, SHARES) == first
    with pytest.raises(ValueError, match="x"), isolated_randomness(0):
        raise ValueError("x")


def test_references(small: MakeSettings, tmp_path: Path) -> None:
    data = small(arm="none").data
    assert len(load_reference("train", data)) == 100
    assert len(load_reference("heldout", data)) == 297
    images = torch.randint(256, (4, 3, 40, 40), dtype=torch.uint8)
    write_pngs(images, tmp_path / "own")
    own = load_reference(str(tmp_path / "own"), data)
    assert isinstance(own, ImageSet)
    assert own.images.shape == (4, 3, 32, 32)
    with pytest.raises(SettingsError, match="no held-out set"):
        load_reference("heldout", data.model_copy(update={"heldout": None}))
    with pytest.raises(VkdError, match="no such"):
        load_reference(str(tmp_path / "missing"), data)


def test_the_grid_shows_a_row_a_class(generator: Generator) -> None:
    picture = class_grid(generator, SHARES)
    assert picture.shape == (3, 10 * 33 + 1, 10 * 33 + 1)
    some = class_grid(generator, [0.5, 0, 0, 0.5, 0, 0, 0, 0, 0, 0])
    assert some.shape == (3, 2 * 33 + 1, 10 * 33 + 1)
