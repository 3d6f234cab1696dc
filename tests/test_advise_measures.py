"""What `vkd advise` measures of features: closed forms and properties."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gan_vkd.advise.choice import alternatives, normalization, ranked, score
from gan_vkd.advise.measure import Row, in_classes
from gan_vkd.advise.measures import Probe, probe, retrieval, signal, spectrum
from gan_vkd.teachers.settings import NetworkSettings

N = 240


def columns(count: int, seed: int = 0) -> Tensor:
    """(N, count) of mean 0 and variance 1 that are uncorrelated to rounding."""
    drawn = torch.randn(N, count, generator=torch.Generator().manual_seed(seed)).double()
    return torch.linalg.qr(drawn - drawn.mean(0))[0] * math.sqrt(N)


def turned(features: Tensor, seed: int = 9) -> Tensor:
    width = features.shape[1]
    drawn = torch.randn(width, width, generator=torch.Generator().manual_seed(seed)).double()
    return features @ torch.linalg.qr(drawn)[0]


# effective rank and agreement by direction


@pytest.mark.parametrize("kept", [1, 3, 8])
def test_the_effective_rank_of_equal_variances_is_their_number(kept):
    features = columns(8) * (torch.arange(8) < kept)
    assert spectrum(features, features).rank == pytest.approx(kept)


def test_the_effective_rank_is_the_exponential_of_the_entropy_and_invariant():
    features = columns(3) * torch.tensor([3.0, 2.0, 1.0]).double()
    shares = [9 / 14, 4 / 14, 1 / 14]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    for seen in (features, turned(features), 5 * features + 7):
        assert spectrum(seen, seen).rank == pytest.approx(expected)


def test_the_agreement_of_a_direction_is_the_correlation_of_the_views():
    drawn = columns(6)
    content, views = drawn[:, :2], (drawn[:, 2:4], drawn[:, 4:])
    strength = torch.tensor([4.0, 1.0]).double()  # of the content, against noise of variance 1
    first, second = (strength * content + noise for noise in views)
    agreement = spectrum(turned(first), turned(second)).agreement
    torch.testing.assert_close(agreement, torch.tensor([16 / 17, 1 / 2]).double())


# agreement over all directions


@pytest.mark.parametrize(("content", "noise"), [(1.0, 0.0), (2.0, 1.0), (1.0, 3.0), (0.0, 1.0)])
def test_signal_is_the_share_of_the_variance_that_both_views_have(content, noise):
    drawn = columns(12)
    first = content * drawn[:, :4] + noise * drawn[:, 4:8] + 5
    second = content * drawn[:, :4] + noise * drawn[:, 8:] + 5
    expected = content**2 / (content**2 + noise**2)
    assert signal(first, second) == pytest.approx(expected, abs=1e-12)
    assert signal(3 * turned(first) - 1, 3 * turned(second) - 1) == pytest.approx(
        expected, abs=1e-12
    )


def test_constant_features_have_no_signal_and_no_rank():
    assert signal(torch.ones(5, 3), torch.ones(5, 3)) == 0
    assert spectrum(torch.ones(5, 3), torch.ones(5, 3)).rank == 0


# pictures that are found again


def test_a_perfect_extractor_finds_every_picture_again_and_a_shifted_one_none():
    features = turned(columns(8))
    assert retrieval(features, features) == 1
    assert retrieval(features, features.roll(1, 0)) == 0


def test_views_that_have_nothing_in_common_are_found_by_chance():
    found = [retrieval(columns(8, seed), columns(8, seed + 50)) for seed in range(0, 40, 2)]
    assert sum(found) / len(found) == pytest.approx(1 / N, abs=3 * math.sqrt(1 / N / (20 * N)))


def test_of_some_pictures_with_equal_views_that_share_is_found_again():
    first, second = columns(16), columns(16)
    second[: N // 4] = -first[: N // 4]
    assert retrieval(first, second) == pytest.approx(0.75)


# the linear classifier


def of_classes(*sizes: int) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def test_separable_classes_are_told_apart_and_labels_by_chance_are_not():
    labels = of_classes(40, 40, 40)
    features = torch.eye(3)[labels] + 0.05 * torch.randn(120, 3, generator=generator(0))
    found = probe(features, labels)
    assert (found.accuracy, found.high, found.pictures) == (1, 1, 120)
    assert found.low == pytest.approx(120 / (120 + 1.959964**2), rel=1e-5)  # Wilson's, of all
    chance = probe(torch.randn(120, 3, generator=generator(1)), labels)
    assert chance.low < 1 / 3 < chance.high


def test_the_probe_does_not_see_what_it_classifies():
    """As many dimensions as pictures fit any labels; held out they are chance."""
    labels = of_classes(60, 60)
    chance = probe(torch.randn(120, 400, generator=generator(2)), labels)
    assert chance.low < 1 / 2 < chance.high


@pytest.mark.parametrize("change", [lambda x: 1000 * x, lambda x: x - 3, lambda x: x.flip(1)])
def test_the_probe_depends_on_no_unit_shift_or_order(change: Callable[[Tensor], Tensor]):
    labels = of_classes(30, 30, 30)
    features = torch.eye(3)[labels] + torch.randn(90, 3, generator=generator(3))
    assert probe(change(features), labels).accuracy == probe(features, labels).accuracy


def test_dimensions_without_variance_and_small_classes_are_no_obstacle():
    labels = of_classes(30, 2)
    features = torch.cat([torch.eye(2)[labels], torch.ones(32, 1)], 1)
    assert probe(features, labels).accuracy == 1


def test_classes_with_one_picture_are_left_out():
    assert in_classes(torch.tensor([0, 0, 1, 2, 2])).tolist() == [0, 1, 3, 4]
    assert in_classes(torch.tensor([0, 0, 1, 2])).tolist() == []
    assert in_classes(torch.tensor([0, 0, 0])).tolist() == []


# the order and the normalisation


def row(found: float, accuracy: float | None, directions: int = 5) -> Row:
    classified = None if accuracy is None else Probe(accuracy, 0, 1, 10)
    views = (columns(32, 1), columns(32, 1))
    teacher = NetworkSettings(name="cifar_resnet20")
    return Row(teacher, teacher, 32, 0.01, 3.0, directions, 0.5, found, classified, views)


def test_the_best_knows_classes_and_pictures():
    only_classes, both, neither = row(0.1, 1.0), row(0.5, 0.7), row(0.02, 0.2)
    assert ranked([neither, only_classes, both]) == [both, only_classes, neither]
    assert score(both) == pytest.approx(math.sqrt(0.35))
    assert score(row(0.3, None)) == 0.3


def test_four_to_sixteen_agreeing_directions_are_whitened():
    assert normalization(row(0.5, None, directions=5))["directions"] == 5
    assert normalization(row(0.5, None, directions=30))["directions"] == 16
    assert normalization(row(0.5, None, directions=4))["directions"] == 4
    assert normalization(row(0.5, None, directions=3)) == {"name": "layer_norm"}
    targets = alternatives(row(0.5, None, directions=20))
    assert [target.normalization.get("directions") for target in targets[:3]] == [16, 20, None]
    assert targets[0].rank == pytest.approx(16)
    assert all(target.signal == pytest.approx(1) for target in targets)  # equal views


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("pictures", [5, 20])
def test_directions_of_rounding_do_not_agree(pictures: int) -> None:
    """Two views of N pictures have 2 N - 1 directions at most; the others are not counted."""
    torch.manual_seed(0)
    first = torch.randn(pictures, 200)
    second = first + torch.randn(pictures, 200) / 10
    assert int((spectrum(first, second).agreement != 0).sum()) <= 2 * pictures - 1
