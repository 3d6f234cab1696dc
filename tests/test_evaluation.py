import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid import features as cleanfid_features
from cleanfid import fid as cleanfid
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from scipy import linalg

from gan_vkd import evaluation
from gan_vkd.config import NetworkSettings
from gan_vkd.data import ImageSet, load_heldout_set, to_network, to_uint8
from gan_vkd.errors import SettingsError, VkdError
from gan_vkd.evaluation import (
    INCEPTION_FILE,
    Evaluator,
    Extractor,
    draw_samples,
    frechet_distance,
    isolated_randomness,
    load_reference,
    make_extractor,
)
from gan_vkd.measures import (
    density_coverage,
    inception_score,
    memorisation_rate,
    precision_recall,
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
        self.output = torch.nn.Linear(2048, 1008)

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        if return_features:  # of images of any size
            x = torch.nn.functional.interpolate(x, (299, 299), mode="bilinear")
            return self.layers((x - 128) / 128)
        return self.output(self.layers(x)).softmax(1)


@pytest.fixture
def inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that is taken for the published file."""
    torch.manual_seed(0)
    file = tmp_path / "weights.pt"
    torch.jit.script(FakeInception()).save(str(file))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(evaluation, "INCEPTION_SHA256", digest)
    return file


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
    theirs = [
        cleanfid.get_folder_features(
            folder, evaluator.extractor.model, num_workers=0, device=CPU, verbose=False,
            custom_fn_resize=lambda x: x,
        )
        for folder in (fdir2, fdir1)
    ]  # fmt: skip
    with isolated_randomness(settings.evaluate.seed):
        kernel = cleanfid.kernel_distance(*theirs)
    assert found["KD(classifier)"] == pytest.approx(kernel, rel=1e-4)


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


@pytest.mark.parametrize(
    ("name", "mode", "distances"),
    [
        ("inception", "clean", ("FID", "KID")),
        ("inception_legacy_tensorflow", "legacy_tensorflow",
         ("FID(legacy_tensorflow)", "KID(legacy_tensorflow)")),
    ],
)  # fmt: skip
def test_inception_from_a_local_file_sees_what_clean_fid_shows_it(
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


def as_published(file: Path, folder: Path) -> Path:
    """The folder, with the file under the published name in it."""
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


def test_a_program_in_the_place_of_inception_is_not_run(
    inception: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the published digest again
    monkeypatch.setattr(torch.jit, "load", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(VkdError, match=r"damaged, or not the published inception-2015-12-05\.pt"):
        make_extractor(NetworkSettings(name="inception", weights=str(inception)), 32, "cpu")


def test_inception_is_fetched_once_and_checked(
    inception: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(url: str, file: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url.rpartition("/")[2], hash_prefix))
        shutil.copy(inception, file)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        make_extractor(NetworkSettings(name="inception"), 32, "cpu")
    assert asked == [("inception-2015-12-05.pt", evaluation.INCEPTION_SHA256)]


def test_unreachable_inception_says_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **options: object) -> None:
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
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


def test_fidelity_diversity_and_copying_beside_the_distance(
    small: MakeSettings, generator: Generator
) -> None:
    settings = small("evaluate.num_samples=60", arm="none")
    evaluator = Evaluator(settings, "cpu")
    found = evaluator(generator, SHARES)
    images = draw_samples(generator, SHARES, 60, 100, 0)
    samples, training, heldout = (
        evaluator.extractor.features(x, 100)
        for x in (
            images,
            load_reference("train", settings.data).images,
            load_reference("heldout", settings.data).images,
        )
    )
    expected = precision_recall(heldout, samples) | density_coverage(heldout, samples)
    assert {name: found[name] for name in expected} == expected
    assert found["memorised"] == memorisation_rate(samples, training)
    assert found["memorised_by_chance"] == memorisation_rate(heldout, training)
    assert "IS" not in found
    against = Evaluator(small("evaluate.reference=train", arm="none"), "cpu")(generator, SHARES)
    assert "memorised_by_chance" not in against


def test_copies_are_found_and_shown(small: MakeSettings) -> None:
    """A generator that has learnt its training images by heart."""
    settings = small(arm="none")
    evaluator = Evaluator(settings, "cpu")
    data = load_reference("train", settings.data)

    class ByHeart(Generator):
        def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return to_network(data.images[(z[:, 0].abs() * 1000).long() % len(data)])

    copies = ByHeart(32, 2, 8, 10).eval()
    assert evaluator(copies, SHARES)["memorised"] == 1
    shown = evaluator.neighbours(copies, SHARES, 4)
    assert shown is not None
    assert shown.shape == (24, 3, 32, 32)
    assert torch.equal(shown[::6], shown[1::6]), "the nearest training image is the sample itself"
    assert not torch.equal(shown[1::6], shown[2::6])


def test_inception_score_by_inceptions_own_classifier(
    inception: Path, generator: Generator, small: MakeSettings
) -> None:
    settings = small(f"evaluate.features={{name: inception, weights: {inception}}}", arm="none")
    evaluator = Evaluator(settings, "cpu", training=load_reference("train", settings.data))
    found = evaluator(generator, SHARES)
    assert found["features"] == "inception"
    network, resize = torch.jit.load(str(inception)), build_resizer("clean")
    images = draw_samples(generator, SHARES, 20, 100, 0).permute(0, 2, 3, 1).numpy()
    resized = torch.from_numpy(np.stack([resize(x) for x in images])).permute(0, 3, 1, 2)
    with torch.no_grad():
        probabilities = network((resized.float() - 128) / 128)
    mean, deviation = inception_score(probabilities.numpy())
    assert found["IS"] == pytest.approx(mean, rel=1e-5)
    assert found["IS_deviation"] == pytest.approx(deviation, rel=1e-3, abs=1e-7)


def test_a_run_without_its_training_set_is_measured_all_the_same(
    small: MakeSettings, generator: Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write_pngs(torch.randint(256, (9, 3, 32, 32), dtype=torch.uint8), tmp_path / "own")
    missing = f"data.source={tmp_path / 'missing'}"
    settings = small(missing, "data.num_images=null", f"evaluate.reference={own}", arm="none")
    reference = load_reference(own, settings.data)
    evaluator = Evaluator(settings, "cpu", reference)
    assert "no memorisation rate, since the training set is missing" in capsys.readouterr().out
    found = evaluator(generator, SHARES)
    assert "precision" in found
    assert "memorised" not in found
    assert evaluator.neighbours(generator, SHARES) is None


def test_features_of_the_sets_are_kept(
    small: MakeSettings, generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small(f"cache={tmp_path / 'cache'}", arm="none")
    first = Evaluator(settings, "cpu")(generator, SHARES)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    shown: list[int] = []
    features = Extractor.features

    def counting(self: Extractor, images: torch.Tensor, batch_size: int) -> np.ndarray:
        shown.append(len(images))
        return features(self, images, batch_size)

    monkeypatch.setattr(Extractor, "features", counting)
    again = Evaluator(settings, "cpu")
    assert shown == [8, 8]
    assert again(generator, SHARES) == first
