"""Images and networks that are not square."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_vkd.data.form import Form, formed
from gan_vkd.data.settings import DataSettings
from gan_vkd.data.shape import Shape
from gan_vkd.game.settings import Settings
from gan_vkd.networks.interface import NETWORKS, Architecture
from gan_vkd.networks.stylegan2.architecture import widths_of
from gan_vkd.run import Run
from gan_vkd.runtime.loggers.interface import Logger
from gan_vkd.runtime.meter import Meter
from gan_vkd.teachers.frozen import load_teacher
from gan_vkd.teachers.settings import NetworkSettings
from gan_vkd.training import Game, train
from tests.conftest import MakeSettings

# images


@pytest.mark.parametrize(
    ("size", "form", "box"),
    [
        ((640, 480), Form(48, 64), (0, 0, 640, 480)),
        ((640, 480), Form(64, 64), (80, 0, 560, 480)),
        ((640, 480), Form(64, 48), (140, 0, 500, 480)),
        ((100, 100), Form(48, 64), (0, 12, 100, 87)),
    ],
)
def test_the_central_largest_rectangle_is_cropped(size, form, box):
    """Red outside of the rectangle, green inside."""
    image = Image.new("RGB", size, "red")
    image.paste((0, 255, 0), box)
    assert (formed(image, form) == (0, 255, 0)).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_letterboxed_images_are_whole_and_padded(channels):
    image = Image.new("RGB", (100, 25), (0, 0, 200))
    found = formed(image, Form(48, 64, channels, "letterbox", "#ff0000")).astype(int)
    around, inside = {
        1: (76, 23),
        3: ((255, 0, 0), (0, 0, 200)),
        4: ((255, 255, 255, 0), (0, 0, 200, 255)),
    }[channels]
    assert (found[:16] == around).all()
    assert (found[16:32] == inside).all()
    assert (found[32:] == around).all()


def test_an_image_of_the_aspect_is_not_padded():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8))
    boxed, cropped = (formed(image, Form(48, 64, 3, fit)) for fit in ("letterbox", "crop"))
    np.testing.assert_array_equal(boxed, cropped)


# shapes


@pytest.mark.parametrize(
    ("sides", "halvings", "square"),
    [
        ((32, 32), 3, 32), ((512, 512), 7, 512), ((48, 64), 3, 32), ((96, 128), 4, 64),
        ((64, 96), 4, 64), ((56, 40), 3, 32), ((32, 512), 3, 32), ((4, 7), 0, 4),
        ((50, 50), None, None), ((48, 50), None, None), ((3, 3), None, None),
    ],
)  # fmt: skip
def test_sides_are_halved_to_4_to_7_pixels(sides, halvings, square):
    shape = Shape(3, *sides)
    assert (shape.halvings, shape.square) == (halvings, square)
    if halvings is not None:
        start = shape.halved(halvings)
        assert 4 <= min(start.height, start.width) < 8
        assert (start.height << halvings, start.width << halvings) == sides


@pytest.mark.parametrize("name", ["biggan", "stylegan2", "r3gan"])
@pytest.mark.parametrize("shape", [Shape(1, 32, 32), Shape(4, 48, 64), Shape(3, 96, 64)])
def test_networks_are_built_for_the_shape(name: str, shape: Shape) -> None:
    network = architecture(name)
    network.require(shape)
    generator, discriminator = network.generator(shape, 2), network.discriminator(shape, 2)
    assert generator.shape == discriminator.shape == shape
    labels = torch.tensor([0, 1, 0, 1])
    images = generator(generator.latents(4), labels)
    assert images.shape == (4, *shape)
    images.retain_grad()
    found = discriminator(images, labels)
    assert found.features.shape == (4, discriminator.width)
    found.score.sum().backward()
    reached = images.grad
    assert reached is not None
    assert (reached.abs().sum((0, 2, 3)) > 0).all(), "every channel is seen"
    assert (reached.abs().sum((0, 1)) > 0).all(), "every pixel is seen"


def architecture(name: str) -> Architecture:
    options = {
        "biggan": {"ch": 2, "z_dim": 8},
        "stylegan2": {"channel_base": 64, "z_dim": 8},
        "r3gan": {"channel_base": 64, "channel_max": 8, "group_width": 4},
    }
    return NETWORKS.make({"name": name, **options[name]})


def test_other_channels_change_the_first_and_last_layers_only() -> None:
    of_pixels = "rgb", "output_layer.2", "blocks.0.0.conv1", "blocks.0.0.conv_sc"
    for name in ("biggan", "stylegan2", "r3gan"):
        network, sizes = architecture(name), []
        for shape in (Shape(3, 32, 32), Shape(4, 32, 32)):
            parts = network.generator(shape, 0), network.discriminator(shape, 0)
            sizes.append({k: v.shape for part in parts for k, v in part.named_parameters()})
        assert sizes[0].keys() == sizes[1].keys()
        changed = [k for k in sizes[0] if sizes[0][k] != sizes[1][k]]
        assert changed
        assert all(any(part in k for part in of_pixels) for k in changed)


def test_the_width_of_a_block_is_that_of_its_longer_side() -> None:
    assert widths_of(Shape(3, 48, 64), 256, 512) == {4: 32, 8: 16, 16: 8, 32: 4}
    assert widths_of(Shape(3, 64, 64), 256, 512) == {4: 64, 8: 32, 16: 16, 32: 8, 64: 4}


@pytest.mark.parametrize("name", ["BigGAN", "StyleGAN2", "R3GAN"])
@pytest.mark.parametrize("shape", [Shape(3, 16, 16), Shape(3, 48, 50), Shape(3, 1024, 1024)])
def test_other_shapes_are_refused_in_one_line(name: str, shape: Shape) -> None:
    with pytest.raises(ValueError, match=rf"data\.resolution = {shape}: {name} takes 32, ") as told:
        architecture(name.lower()).require(shape)
    assert "the shorter one 4 to 7 times it" in str(told.value)
    assert len(str(told.value).splitlines()) == 1


def test_a_network_for_squares_only_refuses_others() -> None:
    Architecture().require(Shape(3, 64, 64))
    for shape in (Shape(3, 48, 64), Shape(3, 48, 48)):
        with pytest.raises(ValueError, match=r"takes 32, 64, 128, 256, 512$"):
            Architecture().require(shape)


def test_a_resolution_is_stored_and_read_as_it_was_given() -> None:
    for given in (64, (48, 64)):
        settings = DataSettings(source="digits", resolution=given)
        assert DataSettings.model_validate(settings.model_dump(mode="json")) == settings
    assert DataSettings(source="digits", resolution=(48, 64)).shape == (3, 48, 64)


# runs


@pytest.mark.parametrize(
    ("arm", "overrides"),
    [
        ("whitening", ("data.channels=1", "augment=[color, translation, cutout]")),
        ("none", ("model={name: stylegan2, channel_base: 64}", "adversary=non_saturating",
                  "data.channels=1", "augment=[ada]", "regularize={r1: auto, r1_every: 2}")),
    ],
)  # fmt: skip
def test_a_run_of_grey_rectangles_is_stored_with_its_shape(
    arm: str, overrides: tuple[str, ...], small: MakeSettings, tmp_path: Path
) -> None:
    settings = small(*overrides, "data.resolution=[32, 40]", "evaluate.num_samples=10", arm=arm)
    run = Run(tmp_path / "run")
    run.write_settings(settings.dump())
    game = trained(settings, run)
    assert game.trainer.generator.shape == (1, 32, 40)
    evaluation = game.evaluate(2, Logger())
    evaluation.export()
    generator, facts = run.load_generator("cpu")
    assert facts["channels"] == 1
    assert generator.shape == (1, 32, 40)


def trained(settings: Settings, run: Run) -> Game:
    torch.manual_seed(0)
    game, meter = Game(settings, run, "cpu"), Meter()
    for done in range(2):
        meter.begin(done + 1)
        game.step(done, meter)
    assert meter.fault() is None
    return game


def test_the_discriminator_of_a_grey_run_teaches(small: MakeSettings, tmp_path: Path) -> None:
    changes = ("data.channels=1", "train.iterations=2", "evaluate.every=2")
    train(small(*changes, arm="none"), tmp_path / "run")
    chosen = NetworkSettings(name="discriminator", weights=str(tmp_path / "run"))
    teacher = load_teacher(chosen, 32, "cpu")
    assert teacher(torch.zeros(2, 1, 32, 32)).shape == (2, teacher.width)
