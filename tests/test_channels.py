"""Grey, RGB and transparent images: as files are read, augmented, judged and written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gan_vkd.data.augment import color, cutout, translation
from gan_vkd.data.form import Form, formed
from gan_vkd.data.image_set import ImageSet, to_network
from gan_vkd.data.images import read_images
from gan_vkd.data.sets import load_heldout_set, load_training_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.distill import Teacher
from gan_vkd.distill.channels import as_rgb, with_channels
from gan_vkd.evaluation.judge import Extractor
from gan_vkd.evaluation.leak import leaked
from gan_vkd.report.pictures import grid, save_image, save_png
from gan_vkd.runtime.errors import SettingsError
from tests.test_images import encode, make, noise


def rgba(alpha: int = 128) -> Image.Image:
    image = Image.fromarray(noise(0, 32, 32, 3)).convert("RGBA")
    image.putpixel((3, 5), (10, 20, 30, alpha))
    return image


KINDS = {
    "grey": encode(Image.fromarray(noise(1, 32, 32))),
    "sixteen": encode(Image.fromarray(noise(2, 32, 32).astype(np.uint16) * 257)),
    "grey in RGB": encode(Image.fromarray(np.stack([noise(3, 32, 32)] * 3, -1))),
    "grey with alpha": encode(Image.fromarray(noise(4, 32, 32)).convert("LA")),
    "colour": encode(Image.fromarray(noise(5, 32, 32, 3))),
    "opaque": encode(rgba(255)),
    "transparent": encode(rgba()),
}


def channels(root: Path, *kinds: str, background: str | None = None) -> int:
    path = make("folder", root, {f"{i}.png": KINDS[kind] for i, kind in enumerate(kinds)})
    return read_images(path, Form(32, 32, None, background=background))[0].shape[3]


@pytest.mark.parametrize(
    ("kinds", "background", "expected"),
    [
        (("grey", "sixteen", "grey in RGB", "grey with alpha"), None, 1),
        (("grey", "colour"), None, 3),
        (("grey", "opaque"), None, 3),
        (("grey", "colour", "transparent"), None, 4),
        (("colour", "transparent"), "white", 3),
        (("grey",), "#ff0000", 1),
        (("grey", "transparent"), "#ff0000", 3),
    ],
)
def test_a_set_has_the_channels_that_its_images_need(kinds, background, expected, tmp_path):
    assert channels(tmp_path, *kinds, background=background) == expected


def test_an_unusable_file_does_not_decide(tmp_path):
    path = make("folder", tmp_path, {"a.png": KINDS["grey"], "b.png": KINDS["transparent"][:99]})
    images, names, _ = read_images(path, Form(32, 32, None), "skip")
    assert (images.shape, names) == ((1, 32, 32, 1), ["a.png"])


def test_the_heldout_set_has_the_channels_of_the_training_set(tmp_path):
    train = make("folder", tmp_path / "a", {"a.png": KINDS["transparent"]})
    other = make("folder", tmp_path / "b", {"a.png": KINDS["grey"]})
    settings = DataSettings(source=str(train), heldout=str(other))
    data = load_training_set(settings)
    heldout = load_heldout_set(settings.of_channels(data.shape.channels))
    assert heldout is not None
    assert data.shape == heldout.shape == (4, 32, 32)
    assert (heldout.images[:, 3] == 255).all()


def test_stored_sections_without_channels_are_rgb():
    """A handwritten section, which never has all keys, is not a stored one."""
    stored = DataSettings(source="images").model_dump()
    earlier = {key: value for key, value in stored.items() if key != "channels"}
    assert DataSettings.model_validate(earlier).channels == 3
    assert DataSettings.model_validate(earlier | {"source": "digits"}).channels == "auto"
    assert DataSettings.model_validate({"source": "images"}).channels == "auto"


def test_named_sets_have_their_own_channels():
    grey = load_training_set(DataSettings(source="digits", channels=1, num_images=5))
    usual = load_training_set(DataSettings(source="digits", num_images=5))
    assert torch.equal(grey.images.expand(-1, 3, -1, -1), usual.images)
    with pytest.raises(SettingsError, match=r"data\.channels = 4: digits has 3"):
        load_training_set(DataSettings(source="digits", channels=4))


# transparency


def test_what_is_transparent_has_no_part_in_the_colours_around_it():
    """Red beside black that cannot be seen: half a size is red everywhere, with half the alpha."""
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, ::2] = (255, 0, 0, 255)
    found = formed(Image.fromarray(pixels), Form(32, 32, 4))
    inner = found[:, 4:-4].astype(int)
    assert (inner[..., 0] >= 253).all()
    assert (inner[..., 1:3] <= 2).all()
    assert np.abs(inner[..., 3] - 127.5).max() <= 3


@pytest.mark.parametrize("side", [32, 64])
def test_fully_transparent_pixels_are_white(side):
    image = Image.new("RGBA", (side, side), (1, 2, 3, 0))
    image.paste((9, 8, 7, 255), (0, 0, side // 2, side))
    found = formed(image, Form(32, 32, 4))
    hidden = found[found[..., 3] == 0]
    assert len(hidden) > 300
    assert (hidden[:, :3] == 255).all()


def test_a_background_flattens_transparency():
    found = formed(rgba(0), Form(32, 32, 3, background="#102030"))
    assert found[5, 3].tolist() == [16, 32, 48]


# greys of 16 bits


def test_sixteen_bits_are_rounded_after_resizing():
    """Values that eight bits cannot tell apart: the mean of 100.4 and 100.6 levels is 100.5."""
    wide = np.full((64, 64), 100 * 257 + 103, np.uint16)
    wide[:, ::2] += 130
    found = formed(Image.fromarray(wide), Form(32, 32, 1))
    assert set(found[:, 4:-4].flatten().tolist()) == {101}  # 100.65; rounded first: 100 and 101


def test_data_white_is_the_value_of_white(tmp_path, capsys):
    wide = np.linspace(0, 4095, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    path = make("folder", tmp_path, {"a.png": encode(Image.fromarray(wide))})
    scaled, _, _ = read_images(path, Form(32, 32, 1, white=4095))
    np.testing.assert_array_equal(scaled[0, ..., 0], (wide / 4095 * 255).round())
    assert not capsys.readouterr().out
    read_images(path, Form(32, 32, 1))
    assert "reach 4095 of data.white = 65535, which makes them dark" in capsys.readouterr().out


# networks that take RGB


def test_rgb_of_transparent_images_by_hand():
    images = torch.rand(2, 4, 3, 3, dtype=torch.float64)
    images[0, 3, 0, 0] = 1.5  # a generator's alpha may exceed the range
    background = torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64)
    found = as_rgb(images, background.view(1, 3, 1, 1))
    for b in range(2):
        for c in range(3):
            for y in range(3):
                for x in range(3):
                    alpha = min(float(images[b, 3, y, x]), 1.0)
                    expected = alpha * images[b, c, y, x] + (1 - alpha) * background[c]
                    assert float(found[b, c, y, x]) == pytest.approx(float(expected), abs=1e-12)
    grey = torch.rand(2, 1, 3, 3)
    assert torch.equal(as_rgb(grey, background), torch.cat([grey] * 3, 1))


def test_a_network_is_given_its_own_channels():
    """Grey is Pillow's luma of the RGB, RGBA is opaque, and nothing is converted needlessly."""
    pixels = torch.randint(256, (5, 3, 8, 8)).to(torch.uint8)
    images, white = pixels.double() / 255, torch.ones(1, 3, 1, 1).double()
    for rgb, found in zip(pixels, with_channels(images, 1, white), strict=True):
        grey = np.asarray(Image.fromarray(rgb.permute(1, 2, 0).numpy()).convert("L"))
        assert abs(found[0].numpy() * 255 - grey).max() < 1
    opaque = with_channels(images, 4, white)
    assert torch.equal(opaque[:, :3], images)
    assert (opaque[:, 3] == 1).all()
    for count in (1, 3, 4):
        same = torch.rand(2, count, 8, 8)
        assert with_channels(same, count, white) is same
    hidden = torch.cat([images, torch.zeros_like(images[:, :1])], 1)
    torch.testing.assert_close(with_channels(hidden, 1, white), torch.ones(5, 1, 8, 8).double())


def test_a_teachers_features_have_gradients_in_colour_and_alpha():
    teacher = Teacher(nn.Flatten(), mean=[0.5] * 3, std=[0.5] * 3, probe=4).double()
    images = (torch.rand(2, 4, 4, 4, dtype=torch.float64) - 0.5).requires_grad_()

    def features(x: Tensor) -> Tensor:
        background = teacher.background
        return (as_rgb((x + 1) / 2, background) - teacher.mean) / teacher.std

    assert torch.allclose(teacher(images), features(images).flatten(1).float())
    assert torch.autograd.gradcheck(features, images)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_judges_see_the_rgb_of_an_image_file(count):
    pixels = torch.from_numpy(noise(7, 5, count, 8, 8))
    judge = Extractor("x", lambda x: x.flatten(1), "cpu", {}, {}, background=(1.0, 0.0, 0.0))
    found = torch.from_numpy(judge.features(pixels, 2)).view(5, 3, 8, 8)
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    for image, seen in zip(pixels, found, strict=True):
        array = image.permute(1, 2, 0).numpy()
        file = Image.fromarray(array[..., 0] if count == 1 else array)
        assert file.mode == modes[count]
        if count == 4:
            file = Image.alpha_composite(Image.new("RGBA", file.size, "red"), file)
        expected = np.asarray(file.convert("RGB")).astype(int)
        assert np.abs(seen.permute(1, 2, 0).numpy() - expected).max() <= (count == 4)


# augmentation


@pytest.mark.parametrize("count", [1, 4])
def test_diffaugment_recolours_all_but_alpha(count):
    images = torch.rand(16, count, 8, 8) - 0.5
    torch.manual_seed(0)
    recoloured = color(images)
    assert torch.equal(recoloured[:, 3:], images[:, 3:])
    assert not torch.allclose(recoloured[:, :3], images[:, :3])
    if count == 1:  # the same as grey in RGB
        torch.manual_seed(0)
        in_rgb = color(images.expand(-1, 3, -1, -1))
        assert torch.allclose(in_rgb, recoloured.expand(-1, 3, -1, -1), atol=1e-6)
    for moved in (translation(images, 0.5), cutout(images)):
        hidden = (moved == 0).all(1)  # of all channels alike
        assert hidden.any()
        assert torch.equal(hidden, (moved == 0).any(1))


@pytest.mark.parametrize("count", [1, 4])
def test_leaked_squares_are_found_in_any_channels(count):
    images = torch.from_numpy(noise(9, 6, count, 32, 48))
    images[:3, :, 5:13, 20:32] = 127
    assert leaked(images)[:, 0].tolist() == [True] * 3 + [False] * 3


# files


@pytest.mark.parametrize("count", [1, 3, 4])
def test_png_files_keep_the_channels(count, tmp_path):
    images = torch.from_numpy(noise(8, 6, count, 8, 8))
    save_png(grid(images, 3), tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        assert image.mode == {1: "L", 3: "RGB", 4: "RGBA"}[count]
        pixels = np.asarray(image).reshape(19, 28, count)
    np.testing.assert_array_equal(pixels[1:9, 1:9], images[0].permute(1, 2, 0))
    assert (pixels[0] == 255).all()


def test_formats_without_transparency_get_white(tmp_path):
    image = torch.zeros(4, 8, 8, dtype=torch.uint8)
    save_image(image, tmp_path / "x.bmp", "BMP")
    with Image.open(tmp_path / "x.bmp") as found:
        assert (np.asarray(found) == 255).all()


def test_a_transparent_set_is_the_same_in_training_and_in_files(tmp_path):
    path = make("folder", tmp_path, {"a.png": KINDS["transparent"]})
    data = load_training_set(DataSettings(source=str(path)))
    assert isinstance(data, ImageSet)
    save_png(data.images[0], tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as found:
        assert found.getpixel((3, 5)) == (10, 20, 30, 128)
    assert to_network(data.images).shape == (1, 4, 32, 32)
