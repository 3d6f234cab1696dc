"""`vkd train PICTURES`: what pictures are, what is seen of them, and what is chosen."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gan_vkd.auto.choose import Choice, choose, flat, tree_of
from gan_vkd.auto.look import Pictures, look
from gan_vkd.auto.machine import Machine
from gan_vkd.auto.reference import are_pictures
from gan_vkd.data.sets import load_training_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.game.ema import HalfLife
from gan_vkd.game.settings import Settings
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.settings_file import merged_items, merged_trees, validated

CPU = Machine("cpu", cores=2, memory=24)
GPU = Machine("cuda:0", "a GPU", 16, 24.0, "reachable")
PHOTOS = Pictures(1000, side=480)


def picture(seed: int = 0, size: tuple[int, int] = (40, 40), mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


# which references are pictures


def test_folders_and_zips_are_pictures_and_all_else_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(
        tmp_path, {"photos/a.png": b"", "run/settings.yaml": b"", "mine.yaml": b"", "a.zip": b""}
    )
    assert are_pictures(Path("photos"))
    assert are_pictures(Path("a.zip"))
    assert are_pictures(tmp_path / "photos")
    for settings in ("run", "mine.yaml", "mine", "folder", "cifar10_10pct+methods/spkd", "none"):
        assert not are_pictures(Path(settings))


@pytest.mark.parametrize("name", ["folder", "mine"])
def test_a_folder_with_the_name_of_settings_is_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path, {f"{name}/a.png": b"", "mine.yaml": b""})
    with pytest.raises(SettingsError) as caught:
        are_pictures(Path(name))
    line = str(caught.value)
    assert f"{name}.yaml for the settings" in line
    assert str(tmp_path / name) in line
    assert "\n" not in line
    assert are_pictures(tmp_path / name)  # as the line says


@pytest.mark.parametrize("name", ["a.JPG", "a.webp", "a.mp4", "a.tar.gz", "a.7z"])
def test_files_that_are_neither_pictures_nor_settings_are_refused(name, tmp_path):
    folder(tmp_path, {name: b"\xff\xd8"})
    with pytest.raises(SettingsError, match="give a folder or a zip of pictures, or settings"):
        are_pictures(tmp_path / name)


# what is seen of pictures


def test_number_sizes_formats_and_damage_are_seen(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        "a.png": encoded(picture(0, (40, 40))),
        "b.jpg": encoded(picture(1, (60, 40)), "JPEG"),
        "c.jpg": encoded(picture(2, (60, 40)), "JPEG", exif=turned),
        "bad.png": b"no picture",
        "short.png": b"",
        "moving.gif": encoded(
            picture(3), "GIF", save_all=True, append_images=[picture(4)], duration=10
        ),
    }
    found = look(folder(tmp_path, files))
    assert found.count == 3
    assert found.damaged == 3
    assert found.classes == {}
    assert found.formats == {"JPEG": 2, "PNG": 1}
    assert (found.smallest, found.side) == ((40, 40), 40)
    assert found.largest in ((60, 40), (40, 60))
    assert found.aspect == 1  # of 1, 3/2 and, turned, 2/3
    assert found.alike == pytest.approx(1 / 3)
    assert found.square == pytest.approx(1 / 3)
    assert (found.grey, found.transparent, found.deep) == (0, 0, 0)


def test_classes_are_the_folders_of_a_zip(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("top/cat/a.png", "top/cat/b.png", "top/dog/c.png"):
            file.writestr(name, encoded(picture()))
    assert look(path).classes == {"cat": 2, "dog": 1}


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_is_seen_in_the_pixels_too(kind, tmp_path):
    grey = picture(mode="L")
    files = {"a.x": encoded(grey, kind), "b.x": encoded(grey.convert("RGB"), kind)}
    files = {name.replace(".x", f".{kind.lower()}"): data for name, data in files.items()}
    assert look(folder(tmp_path, files)).grey == 1


def test_one_coloured_picture_among_many_keeps_its_colours(tmp_path):
    """As with data.channels=auto, though most pictures are not looked at one by one."""
    grey = encoded(picture(mode="L"))
    tinted = picture(mode="L").convert("RGB")
    tinted.putpixel((3, 3), (100, 100, 103))
    path = folder(tmp_path, {f"{i:03}.png": grey for i in range(200)})
    assert look(path).grey == 1
    folder(path, {"101.png": encoded(tinted)})
    assert 0.99 < look(path).grey < 1
    assert load_training_set(DataSettings(source=str(path))).shape.channels == 3


def test_grey_pictures_of_lossy_formats_are_grey(tmp_path):
    noise = picture(mode="L").convert("RGB")
    path = folder(tmp_path, {"a.webp": encoded(noise, "WEBP"), "b.jpg": encoded(noise, "JPEG")})
    assert look(path).grey == 1
    assert load_training_set(DataSettings(source=str(path))).shape.channels == 1


def test_sixteen_bits_and_transparency_are_seen(tmp_path):
    deep = Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40)
    opaque, through = picture(mode="RGBA"), picture(mode="RGBA")
    through.putalpha(100)
    files = {"a.png": encoded(deep), "b.png": encoded(opaque), "c.png": encoded(through)}
    found = look(folder(tmp_path, {**files, "d.png": encoded(picture())}))
    assert (found.deep, found.grey, found.transparent) == (0.25, 0.25, 0.25)


def test_folders_without_a_usable_picture_are_refused(tmp_path):
    with pytest.raises(VkdError, match="none of its 2 pictures can be read"):
        look(folder(tmp_path, {"a.png": b"x", "b.png": b""}))


# what is chosen


def chosen(pictures: Pictures, machine: Machine, *items: str) -> tuple[Settings, list[Choice]]:
    """The validated settings, those of the user on top, and the choices."""
    asked, values = merged_items(list(items))
    choices = choose("photos", pictures, machine, flat(asked))
    tree = merged_trees(tree_of(choices), asked)
    return validated(Settings, tree, "photos", values), choices


ADA_AUTO = {  # the published table for one GPU: size -> batch, R1, channel_base
    32: (32, 0.0064, 16_384),
    64: (32, 0.0256, 16_384),
    128: (32, 0.1024, 16_384),
    256: (16, 0.8192, 16_384),
    512: (8, 6.5536, 32_768),
}


@pytest.mark.parametrize("size", ADA_AUTO)
def test_on_a_gpu_the_choices_are_those_of_ada(size):
    batch, r1, base = ADA_AUTO[size]
    settings, choices = chosen(PHOTOS, GPU, f"data.resolution={size}")
    train, game = settings.train, settings.regularize
    assert (train.batch_size, game.r1, game.r1_every, train.d_steps) == (batch, "auto", 16, 1)
    assert 0.0002 * size**2 / batch == pytest.approx(r1)
    assert f"= {r1:.3g}" in next(c.why for c in choices if c.key == "regularize.r1")
    assert settings.model.chosen["channel_base"] == "auto"
    assert base == (32_768 if size >= 512 else 16_384)
    assert (train.g_lr, train.d_lr, train.betas) == (2.5e-3, 2.5e-3, (0.0, 0.99))
    half_life = batch * 10 / 32 * 1000 / batch  # in iterations
    assert isinstance(train.ema_decay, HalfLife)
    assert train.ema_decay.of_batch(batch)(10**6) == pytest.approx(0.5 ** (1 / half_life))
    assert settings.augment[0].chosen["name"] == "ada"
    assert settings.evaluate.features is not None
    assert settings.evaluate.features.name == "inception"


TABLE = [  # pictures, machine, items, expected settings by key
    (PHOTOS, CPU, [], {"data.resolution": 64, "train.batch_size": 16}),
    (PHOTOS, GPU, [], {"data.resolution": 256, "train.batch_size": 16}),
    (Pictures(9, side=2000), Machine("cuda:0", memory=12), [], {"data.resolution": 256}),
    (Pictures(9, side=2000), Machine("cuda:0", memory=6), [], {"data.resolution": 128}),
    (Pictures(9, side=2000), GPU, [], {"data.resolution": 512, "train.batch_size": 8}),
    (Pictures(9, side=50), GPU, [], {"data.resolution": 32}),
    (Pictures(9, side=10), CPU, [], {"data.resolution": 32}),
    (Pictures(9, side=480, aspect=4 / 3), CPU, [], {"data.resolution": (48, 64)}),
    (Pictures(9, side=480, aspect=3 / 4), GPU, [], {"data.resolution": (256, 192)}),
    (Pictures(9, side=480, aspect=1.5, alike=0.5), CPU, [], {"data.resolution": 64}),
    (Pictures(9, side=480, aspect=3), CPU, ["model=biggan"], {"data.resolution": (32, 64)}),
    (Pictures(9, transparent=0.9), CPU, [], {"data.channels": 4}),
    (Pictures(9, transparent=0.1), CPU, [], {"data.channels": 3}),
    (Pictures(9, transparent=1), CPU, ["data.background=white"], {"data.channels": 3}),
    (Pictures(9, grey=1), CPU, [], {"data.channels": 1}),
    (Pictures(9, grey=0.99), CPU, [], {"data.channels": 3}),
    (PHOTOS, CPU, ["data.resolution=256"], {"data.resolution": 256, "train.batch_size": 16}),
    (Pictures(40, classes={"a": 30, "b": 10}), CPU, [], {"data.conditional": True}),
    (Pictures(18, classes={"a": 9, "b": 9}), CPU, [], {"data.conditional": False}),
    (Pictures(40, classes={"a": 40}), CPU, [], {"data.conditional": False}),
    (PHOTOS, CPU, [], {"evaluate.features": None, "distill": None, "data.heldout": None}),
    (PHOTOS, Machine("cuda:0", memory=24), [], {"evaluate.features": None}),
    (Pictures(1), GPU, [], {"evaluate.features": None}),
    (PHOTOS, GPU, ["data.num_images=1"], {"evaluate.features": None}),
    (PHOTOS, CPU, ["evaluate.features.name=cifar_resnet20"], {"evaluate.reference": "train"}),
    (PHOTOS, CPU, ["data.heldout=kept"], {"evaluate.reference": "heldout"}),
    (PHOTOS, CPU, ["train.iterations=20"], {"evaluate.every": 20, "train.sample_first": 16}),
    (PHOTOS, CPU, ["train.batch_size=8"], {"train.iterations": 12_500, "regularize.r1": "auto"}),
    (PHOTOS, GPU, ["model=biggan"], {"data.resolution": 64, "adversary.name": "hinge"}),
    (PHOTOS, CPU, ["+networks/stylegan2"], {"train.batch_size": 32, "model.channel_base": 2048}),
    (PHOTOS, GPU, ["+networks/r3gan"], {"model.name": "r3gan", "regularize.path_length": 0}),
    (PHOTOS, CPU, ["+regularizers/ada"], {"arm": "ada"}),
    (PHOTOS, CPU, ["arm=2024"], {"arm": "2024"}),
    (PHOTOS, CPU, ["train.ema_decay.ramp_up=0.1"], {"train.ema_decay.half_life": "auto"}),
]  # fmt: skip


@pytest.mark.parametrize(("pictures", "machine", "items", "expected"), TABLE)
def test_choices(pictures, machine, items, expected):
    settings, _ = chosen(pictures, machine, *items)
    found = settings.model_dump()
    known = flat(found) | {"evaluate.features": found["evaluate"]["features"]}
    assert {key: known[key] for key in expected} == expected


def test_dependent_choices_follow_what_is_given():
    _, choices = chosen(PHOTOS, GPU, "train.batch_size=64", "data.resolution=128")
    why = {choice.key: choice.why for choice in choices}
    assert why["train.batch_size"] == why["data.resolution"] == "given"
    assert why["regularize.r1"].endswith(f"= {0.0002 * 128**2 / 64:.3g}")
    settings, _ = chosen(PHOTOS, GPU, "train.iterations=1000")
    assert settings.augment[0].chosen["kimg"] == 2  # a tenth of 1000 * 16 images


def test_every_given_value_holds():
    items = ["seed=3", "data.flip=false", "augment=[]", "evaluate.every=7", "train.betas=[0.5,0.9]"]
    settings, choices = chosen(PHOTOS, CPU, *items)
    assert (settings.seed, settings.data.flip, settings.augment) == (3, False, [])
    assert (settings.evaluate.every, settings.train.betas) == (7, (0.5, 0.9))
    assert settings.train.sample_every == 7
    assert {c.key for c in choices if c.given} == {item.partition("=")[0] for item in items}


def test_the_same_facts_give_the_same_choices():
    assert choose("x", PHOTOS, CPU) == choose("x", PHOTOS, CPU)
    keys = [choice.key for choice in choose("x", PHOTOS, GPU)]
    assert len(keys) == len(set(keys))
    assert all(choice.why for choice in choose("x", PHOTOS, GPU))
