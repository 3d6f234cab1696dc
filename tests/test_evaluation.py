from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from cleanfid.resize import build_resizer
from scipy import linalg

from gan_vkd.data.image_set import ImageSet, to_network
from gan_vkd.evaluation.distances import frechet_distance
from gan_vkd.evaluation.evaluator import isolated_randomness, load_reference
from gan_vkd.evaluation.judge import Extractor
from gan_vkd.evaluation.measures import (
    density_coverage,
    inception_score,
    memorisation_rate,
    precision_recall,
)
from gan_vkd.evaluation.record import distances
from gan_vkd.networks.biggan import Generator
from gan_vkd.networks.sampling import draw_samples
from gan_vkd.networks.stylegan2 import Generator as StyleGAN2
from gan_vkd.networks.stylegan2.generator import StyledConv
from gan_vkd.runtime.errors import SettingsError, VkdError
from tests.conftest import CPU, SHARES, MakeSettings, evaluator_of, write_pngs


def test_the_frechet_distance_matches_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(400, 6)), rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) + 1
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(linalg.sqrtm(cov_a) @ cov_b @ linalg.sqrtm(cov_a))
    shift = a.mean(0) - b.mean(0)
    expected = shift @ shift + np.trace(cov_a + cov_b - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_distances_equal_those_of_clean_fid(
    small: MakeSettings, generator: Generator, tmp_path: Path
) -> None:
    """Distances of images in memory equal clean-fid's of PNG files, with a custom extractor."""
    settings = small("evaluate.num_samples=150", arm="none")
    evaluator = evaluator_of(settings)
    found = evaluator(generator, SHARES)
    reference = load_reference("heldout", settings.data)
    fdir2 = write_pngs(reference.images, tmp_path / "reference")
    fdir1 = write_pngs(draw_samples(generator, SHARES, 150, 100, 0), tmp_path / "samples")
    expected = cleanfid.compute_fid(
        fdir1, fdir2, custom_feat_extractor=evaluator.extractor.model, device=CPU,
        custom_fn_resize=lambda x: x, num_workers=0, verbose=False, use_dataparallel=False,
    )  # fmt: skip
    assert distances(found)["FD(classifier)"] == pytest.approx(expected, rel=1e-4)
    theirs = [
        cleanfid.get_folder_features(
            folder, evaluator.extractor.model, num_workers=0, device=CPU, verbose=False,
            custom_fn_resize=lambda x: x,
        )
        for folder in (fdir2, fdir1)
    ]  # fmt: skip
    with isolated_randomness(settings.evaluate.seed):
        kernel = cleanfid.kernel_distance(*theirs)
    assert distances(found)["KD(classifier)"] == pytest.approx(kernel, rel=1e-4)


def test_only_inception_features_are_called_fid(small: MakeSettings, generator: Generator) -> None:
    found = evaluator_of(small(arm="none"))(generator, SHARES)
    assert distances(found).keys() == {"FD(classifier)", "KD(classifier)"}
    assert {"judges", "num_samples"} <= set(found)


def test_an_evaluation_does_not_change_the_random_state(
    small: MakeSettings, generator: Generator
) -> None:
    evaluator = evaluator_of(small(arm="none"))
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


def further(classifier: Path, size: int = 16) -> str:
    """Returns an override that adds a judge: the same weights on smaller images."""
    return f"evaluate.also=[{{name: classifier, weights: {classifier}, size: {size}}}]"


def test_the_noise_of_evaluated_samples_is_drawn(small: MakeSettings) -> None:
    """As published: the constant noise, which is that of single pictures, has no influence."""
    torch.manual_seed(0)
    network = StyleGAN2({4: 8, 8: 6, 16: 4, 32: 4}, 10, z_dim=8, w_dim=6, mapping_layers=2).eval()
    layers = [m for m in network.modules() if isinstance(m, StyledConv)]
    for layer in layers:
        torch.nn.init.constant_(layer.noise_strength, 0.5)
    evaluator = evaluator_of(small("evaluate.num_samples=50", arm="none"))
    record = evaluator(network, SHARES)
    assert evaluator(network, SHARES) == record
    assert network.noise == "constant"
    for layer in layers:
        torch.nn.init.zeros_(layer.noise_const)
    assert evaluator(network, SHARES) == record
    for layer in layers:
        torch.nn.init.zeros_(layer.noise_strength)
    assert evaluator(network, SHARES) != record


def test_a_further_judge_does_not_change_other_values(
    small: MakeSettings, classifier: Path, generator: Generator
) -> None:
    both = evaluator_of(small(further(classifier), arm="none"))(generator, SHARES)
    first = evaluator_of(small(arm="none"))(generator, SHARES)
    other = evaluator_of(small("evaluate.features.size=16", arm="none"))(generator, SHARES)
    assert distances(other).keys() == {"FD(classifier@16)", "KD(classifier@16)"}
    assert both["judges"] == first["judges"] + other["judges"]
    alone = {name: value for name, value in first.items() if name != "judges"}
    assert {name: both[name] for name in alone} == alone
    assert both.keys() == alone.keys() | {"judges"}


def test_two_judges_of_one_name_are_refused(small: MakeSettings, classifier: Path) -> None:
    also = f"evaluate.also=[{{name: classifier, weights: {classifier}, layer: layer2}}]"
    with pytest.raises(SettingsError, match=r"two judges give FD\(classifier\); remove one"):
        evaluator_of(small(also, arm="none"))


def test_references_are_train_heldout_or_a_path(small: MakeSettings, tmp_path: Path) -> None:
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


def test_records_have_fidelity_diversity_and_memorisation(
    small: MakeSettings, generator: Generator
) -> None:
    settings = small("evaluate.num_samples=60", arm="none")
    evaluator = evaluator_of(settings)
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
    against = evaluator_of(small("evaluate.reference=train", arm="none"))(generator, SHARES)
    assert "memorised_by_chance" not in against


def test_copies_of_training_images_are_detected(small: MakeSettings) -> None:
    """A generator that returns training images."""
    settings = small(arm="none")
    evaluator = evaluator_of(settings)
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


def test_the_inception_score_uses_inceptions_classifier(
    inception: Path, generator: Generator, small: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of 2,048 features it takes far longer than everything else here
    monkeypatch.setattr("gan_vkd.evaluation.evaluator.frechet_distance", lambda *features: 0.0)
    settings = small(f"evaluate.features={{name: inception, weights: {inception}}}", arm="none")
    evaluator = evaluator_of(settings, training=load_reference("train", settings.data))
    found = evaluator(generator, SHARES)
    assert found["judges"][0]["name"] == "inception"
    network, resize = torch.jit.load(str(inception)), build_resizer("clean")
    images = draw_samples(generator, SHARES, 20, 100, 0).permute(0, 2, 3, 1).numpy()
    resized = torch.from_numpy(np.stack([resize(x) for x in images])).permute(0, 3, 1, 2)
    with torch.no_grad():
        probabilities = network((resized.float() - 128) / 128)
    mean, deviation = inception_score(probabilities.numpy())
    assert found["IS"] == pytest.approx(mean, rel=1e-5)
    assert found["IS_deviation"] == pytest.approx(deviation, rel=1e-3, abs=1e-7)


def test_a_run_without_its_training_set_is_evaluated(
    small: MakeSettings, generator: Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write_pngs(torch.randint(256, (9, 3, 32, 32), dtype=torch.uint8), tmp_path / "own")
    missing = f"data.source={tmp_path / 'missing'}"
    settings = small(missing, "data.num_images=null", f"evaluate.reference={own}", arm="none")
    reference = load_reference(own, settings.data)
    evaluator = evaluator_of(settings, reference=reference)
    assert "no memorisation rate, since the training set is missing" in capsys.readouterr().out
    found = evaluator(generator, SHARES)
    assert "precision" in found
    assert "memorised" not in found
    assert evaluator.neighbours(generator, SHARES) is None


def test_features_of_the_sets_are_cached(
    small: MakeSettings, classifier: Path, generator: Generator, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings = small(f"cache={tmp_path / 'cache'}", further(classifier), arm="none")
    first = evaluator_of(settings)(generator, SHARES)
    assert len(list((tmp_path / "cache").iterdir())) == 3, "two sets, and one for the further judge"
    shown: list[int] = []
    features = Extractor.features

    def counting(self: Extractor, images: torch.Tensor, batch_size: int) -> np.ndarray:
        shown.append(len(images))
        return features(self, images, batch_size)

    monkeypatch.setattr(Extractor, "features", counting)
    again = evaluator_of(settings)
    assert shown == [8, 8, 8]
    assert again(generator, SHARES) == first
