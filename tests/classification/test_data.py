"""Folders in ImageNet's layout with damaged images, and tar shards."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from classification.recognition.data import shards as module
from classification.recognition.data.feed import Feed
from classification.recognition.data.images import load_heldout_images, load_training_images
from classification.recognition.data.transforms import training_transform
from classification.recognition.evaluation import evaluate_run
from classification.recognition.run import Run, read_student
from classification.recognition.settings import AugmentSettings, InputSettings, load_settings
from classification.recognition.training import train
from gan_vkd.data.decoding import BadImage
from gan_vkd.runtime.errors import SettingsError, VkdError
from tests.classification.conftest import MakeStudent

_READ = module._read
CLASSES = ["n01440764", "n01443537", "n01484850"]


def picture(rng: np.random.Generator, mode: str = "RGB") -> Image.Image:
    height, width = rng.integers(40, 90, 2)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).convert(mode)


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """train/ and val/ with one folder per class: JPEGs of many sizes, some in grey or CMYK."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 5)):
        for name in CLASSES:
            folder = tmp_path / "imagenet" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                mode = {0: "L", 1: "CMYK"}.get(i, "RGB")
                picture(rng, mode).save(folder / f"{name}_{i}.JPEG")
    return tmp_path / "imagenet"


def break_one(folder: Path) -> Path:
    file = sorted(folder.rglob("*.JPEG"))[4]
    file.write_bytes(file.read_bytes()[:200])
    return file


@pytest.fixture
def files(tiny: MakeStudent, imagenet: Path):
    def make(*overrides: str):
        return tiny(
            "data.kind=files", f"data.source={imagenet / 'train'}",
            f"data.heldout={imagenet / 'val'}", "data.num_images=null", "augment.crop=resized",
            "augment.policy=rand-m9-mstd0.5-inc1", "augment.mixup=0.8", "augment.cutmix=1",
            "augment.erasing=0.25", "augment.repeats=3", "train.batch_size=6", "train.epochs=2",
            *overrides, arm="plain",
        )  # fmt: skip

    return make


@pytest.mark.parametrize("heldout", ["0", "1", "1.5"])
def test_a_share_lies_between_0_and_1(heldout: str) -> None:
    with pytest.raises(SettingsError, match=r"heldout = .*: a share lies between 0 and 1"):
        load_settings(Path("finetune_vit"), [f"data.heldout={heldout}"])


@pytest.mark.parametrize("seed", [0, 1])
def test_a_share_of_each_class_is_held_out(seed: int, imagenet: Path) -> None:
    source = str(imagenet / "train")  # 8 images in each class
    settings = InputSettings(source=source, kind="files", heldout=0.25, seed=seed)
    training = load_training_images(settings)
    heldout = load_heldout_images(settings, training.classes)
    assert heldout is not None
    assert heldout.classes == training.classes == CLASSES
    assert training.labels.bincount().tolist() == [6, 6, 6]  # type: ignore[union-attr]
    assert heldout.labels.bincount().tolist() == [2, 2, 2]
    names = [x.name(i) for x in (training, heldout) for i in range(x.count)]  # type: ignore[union-attr]
    assert len({*names}) == 24


def test_a_run_reads_imagenets_folders(files, imagenet: Path, tmp_path: Path) -> None:
    settings = files()
    images = load_training_images(settings.data)
    assert images.classes == CLASSES
    assert images.labels.bincount().tolist() == [8, 8, 8]
    train(settings, tmp_path / "run")
    last = Run(tmp_path / "run").records("metrics")[-1]
    assert last["images"] == 15
    assert read_student(tmp_path / "run")[1]["classes"] == CLASSES


def test_a_damaged_training_image_is_named_and_refused_or_skipped(
    files, imagenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = break_one(imagenet / "train")
    with pytest.raises(VkdError, match="cannot be used") as caught:
        train(files(), tmp_path / "run")
    message = str(caught.value)
    assert broken.name in message
    assert "data.damaged=skip" in message
    assert len(message.splitlines()) == 1
    train(files("data.damaged=skip"), tmp_path / "run", resume=True)
    printed = capsys.readouterr().err
    assert printed.count("skipped: ") == 1
    assert broken.name in printed


def test_damaged_images_are_reported_from_worker_processes(
    files, imagenet: Path, tmp_path: Path
) -> None:
    broken = break_one(imagenet / "train")
    with pytest.raises(VkdError, match=broken.name) as caught:
        train(files("data.workers=2"), tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 1


def test_a_damaged_image_is_replaced_by_another(files, imagenet: Path) -> None:
    break_one(imagenet / "train")
    settings = files("data.damaged=skip", "augment.repeats=1", "augment.erasing=0")
    feed = Feed(settings, load_training_images(settings.data), "cpu")
    for number in range(4):
        batch = feed(number)
        assert batch.images.flatten(1).std(1).min() > 0  # none is blank
    assert len(feed.faults.reported) == 1


def test_a_damaged_heldout_image_is_refused_or_counted_separately(
    files, imagenet: Path, tmp_path: Path
) -> None:
    train(files(), tmp_path / "run")
    broken = break_one(imagenet / "val")
    with pytest.raises(VkdError, match=f"1 held-out images cannot be used.*{broken.name}"):
        evaluate_run(tmp_path / "run", files())
    result = evaluate_run(tmp_path / "run", files("data.damaged=skip"))
    assert (result["images"], result["damaged"]) == (14, 1)


def test_heldout_images_of_other_classes_are_refused(files, imagenet: Path) -> None:
    for file in (imagenet / "val" / CLASSES[1]).iterdir():
        file.unlink()
    settings = files()
    with pytest.raises(SettingsError, match=rf"has other classes \(\['{CLASSES[1]}'\]\)"):
        load_heldout_images(settings.data, CLASSES)


def test_what_runs_wrote_into_the_folder_is_no_class(
    files, imagenet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = imagenet / "train" / "runs" / "seed0"
    (run / "samples").mkdir(parents=True)
    for name in ("settings.yaml", ".lock"):
        (run / name).touch()
    picture(np.random.default_rng(0)).save(run / "samples" / "1.png")
    assert load_training_images(files().data).classes == CLASSES
    assert "run folders" in capsys.readouterr().out


def test_one_class_folder_is_told_from_none(files, imagenet: Path) -> None:
    one = imagenet / "val" / CLASSES[0]
    with pytest.raises(VkdError, match="has no class folders; two are needed"):
        load_training_images(files(f"data.source={one}").data)
    for name in CLASSES[1:]:
        (imagenet / "val" / name).rename(imagenet / name)
    with pytest.raises(VkdError, match=f"has one class folder, '{CLASSES[0]}'; two are needed"):
        load_training_images(files(f"data.source={imagenet / 'val'}").data)


def test_large_jpegs_are_decoded_at_a_reduced_scale_within_a_limit(files, imagenet: Path) -> None:
    """Never below eight times the resolution, which leaves twice of it to the smallest crop."""
    large = imagenet / "train" / CLASSES[0] / "0.jpg"
    Image.new("RGB", (5000, 4000)).save(large)
    assert load_training_images(files().data).image(0).size == (625, 500)
    assert load_training_images(files("data.resolution=63").data).image(0).size == (1250, 1000)
    with pytest.raises(BadImage, match=r"5000x4000 pixels, more than .* = 19"):
        load_training_images(files("data.max_megapixels=19").data).image(0)


def test_a_missing_folder_is_refused(files) -> None:
    with pytest.raises(VkdError, match="no such folder of class folders"):
        load_training_images(files("data.source=nowhere").data)


# shards


def write_shards(imagenet: Path, folder: Path, count: int = 3) -> str:
    folder.mkdir()
    files = sorted((imagenet / "train").rglob("*.JPEG"))
    for shard in range(count):
        with tarfile.open(folder / f"train-{shard:03d}.tar", "w") as tar:
            for file in files[shard::count]:
                label = str(CLASSES.index(file.parent.name)).encode()
                for suffix, data in (("jpg", file.read_bytes()), ("cls", label)):
                    info = tarfile.TarInfo(f"{file.stem}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return str(folder / f"train-{{000..{count - 1:03d}}}.tar")


@pytest.fixture
def shards(files, imagenet: Path, tmp_path: Path):
    pattern = write_shards(imagenet, tmp_path / "shards")

    def make(*overrides: str):
        return files(
            "data.kind=shards", f"data.source={pattern}", "data.num_images=24", "data.classes=3",
            "augment.repeats=1", *overrides,
        )  # fmt: skip

    return make


def test_a_run_trains_on_shards_and_evaluates(shards, tmp_path: Path) -> None:
    train(shards(), tmp_path / "run")
    assert Run(tmp_path / "run").records("metrics")[-1]["images"] == 15


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_resume_where_they_stopped(shards, workers: int) -> None:
    settings = shards(f"data.workers={workers}")
    images = load_training_images(settings.data)
    feed = Feed(settings, images, "cpu")
    whole = [feed(number) for number in range(7)]
    later = Feed(settings, images, "cpu")
    for number in (3, 4, 5, 6):
        batch = later(number)
        assert torch.equal(batch.images, whole[number].images)
        assert torch.equal(batch.labels, whole[number].labels)


def test_resuming_reads_the_last_pass_only(shards, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = shards("data.workers=0")
    images = load_training_images(settings.data)
    read: list[Path] = []
    monkeypatch.setattr(module, "_read", lambda file: read.append(file) or _READ(file))
    Feed(settings, images, "cpu")(40 * 4)  # 40 passes of 4 batches
    assert 1 <= len(read) <= 3


def test_a_pass_has_the_length_of_the_settings(shards) -> None:
    """Shards that hold fewer images are repeated."""
    settings = shards("data.num_images=30", "augment.mixup=0", "augment.cutmix=0")
    feed = Feed(settings, load_training_images(settings.data), "cpu")
    labels = torch.cat([feed(number).labels for number in range(10)])[:60]
    assert sum(labels[:24].bincount() == 8) == 3
    assert sum(labels[30:54].bincount() == 8) == 3


def test_an_empty_shard_is_refused_by_name(shards, tmp_path: Path) -> None:
    tarfile.open(tmp_path / "shards" / "train-001.tar", "w").close()
    settings = shards("data.workers=3", "data.num_images=16")
    feed = Feed(settings, load_training_images(settings.data), "cpu")
    with pytest.raises(VkdError, match=r"train-001\.tar: empty \(has no samples\)"):
        _ = [feed(number) for number in range(3)]


def test_one_pass_of_the_shards_shows_every_image_once(shards) -> None:
    settings = shards("augment.mixup=0", "augment.cutmix=0")
    feed = Feed(settings, load_training_images(settings.data), "cpu")
    labels = torch.cat([feed(number).labels for number in range(4)])
    assert labels.bincount().tolist() == [8, 8, 8]


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["data.source=pipe:cat x.tar"], "no such shards"),
        (["data.source=nowhere-{00..03}.tar"], "no such shards"),
        (["data.workers=4"], "fewer than the 4 workers"),
    ],
)
def test_unusable_shards_are_refused(shards, overrides: list[str], fault: str) -> None:
    settings = shards(*overrides)
    with pytest.raises(VkdError, match=fault):
        Feed(settings, load_training_images(settings.data), "cpu")(0)


def test_a_damaged_image_and_a_bad_label_in_a_shard_are_refused(
    shards, imagenet: Path, tmp_path: Path
) -> None:
    file = tmp_path / "shards" / "train-001.tar"
    with tarfile.open(file, "a") as tar:
        for suffix, data in (("jpg", b"no image"), ("cls", b"1")):
            info = tarfile.TarInfo(f"bad.{suffix}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(VkdError, match=r"bad.* \(not an image\)"):
        train(shards("train.epochs=4"), tmp_path / "run")
    with tarfile.open(file, "a") as tar:
        for suffix, data in (("jpg", b"x"), ("cls", b"7")):
            info = tarfile.TarInfo(f"odd.{suffix}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(VkdError, match="odd"):
        train(shards("train.epochs=6", "seed=1"), tmp_path / "other")


def test_a_truncated_shard_is_a_one_line_error(shards, tmp_path: Path) -> None:
    file = tmp_path / "shards" / "train-002.tar"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(VkdError, match=r"train-002\.tar") as caught:
        train(shards("train.epochs=6"), tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 1


def test_three_augment_has_three_policies_and_colour_jitter() -> None:
    data = InputSettings(source="", kind="files", heldout=None, resolution=16)
    steps = training_transform(data, AugmentSettings(policy="3a", erasing=0)).transforms
    policies = [step.policy for step in steps if hasattr(step, "policy")]
    assert [op.name for pair in policies[0] for op in pair] == [
        "Solarize", "Desaturate", "GaussianBlurRand",
    ]  # fmt: skip
    assert any(type(step).__name__ == "ColorJitter" for step in steps)


@pytest.mark.parametrize("policy", ["nonsense", "rand-x9", "rand-m9-q3"])
def test_a_policy_that_timm_refuses_is_a_one_line_error(policy: str) -> None:
    data = InputSettings(source="", kind="files", heldout=None, resolution=16)
    with pytest.raises(SettingsError, match=r"augment\.policy = ") as caught:
        training_transform(data, AugmentSettings(policy=policy))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "rand-m10-inc1", "v0", "augmix-m10"])
def test_augmentations_at_full_strength_keep_the_size(policy: str) -> None:
    data = InputSettings(source="", kind="files", heldout=None, resolution=16)
    transform = training_transform(data, AugmentSettings(policy=policy))
    image = Image.fromarray(np.arange(20 * 20 * 3, dtype=np.uint8).reshape(20, 20, 3))
    steps = transform.transforms
    ops = [op for step in steps for op in getattr(step, "ops", [])]
    ops += [op for step in steps for pair in getattr(step, "policy", []) for op in pair]
    assert any("Posterize" in op.name for op in ops)
    for op in ops:
        op.prob, op.magnitude = 1.0, 10
        assert op(image).size == image.size
