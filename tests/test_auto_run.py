"""`vkd train PICTURES` from start to end."""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest

from gan_vkd.auto.estimate import _lazy_terms, estimate
from gan_vkd.cli import main
from gan_vkd.game.settings import Settings, load_settings
from gan_vkd.run import Run
from gan_vkd.runtime import ranks
from gan_vkd.training import Game
from tests.conftest import CONFIGS
from tests.processes import called
from tests.test_auto import encoded, folder, picture

TINY = ["model.channel_max=8", "model.z_dim=8", "model.w_dim=8", "train.batch_size=4"]
Answer = tuple[int, str, str]


@pytest.fixture
def vkd(tmp_path, monkeypatch) -> Callable[..., Answer]:
    """Runs `vkd train` on a CPU in an empty folder: exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Answer:
        done = called(main, "train", *arguments, "device=cpu")
        return done.returncode, done.stdout, done.stderr

    return call


def test_pictures_are_looked_at_and_trained_on_and_the_run_continues(vkd, tmp_path):
    files = {f"cat/{i}.png": encoded(picture(i)) for i in range(12)}
    files |= {f"dog/{i}.png": encoded(picture(i, (40, 64), "L")) for i in range(12)}
    folder(
        tmp_path, {f"photos/{name}": data for name, data in (files | {"dog/x.png": b""}).items()}
    )
    command = ["photos", *TINY, "train.iterations=2", "train.sample_first=1"]

    code, out, err = vkd(*command, "--dry-run")
    assert (code, err) == (0, "")
    for part in ("24 pictures", "2 class folders", "1 files are damaged", "50% grey",
                 "50% not square", "this machine: CPU", "data.conditional", "given",
                 "for 2 iterations", "runs/photos-32"):  # fmt: skip
        assert part in out, part
    assert not Path("runs").exists()

    assert vkd(*command)[0] == 0
    run = Run(tmp_path / "runs" / "photos-32")
    settings = load_settings(run.path)
    assert settings.data.source == str(tmp_path / "photos")  # found from any folder
    assert settings.data.resolution == 32
    assert settings.train.batch_size == 4
    assert run.load_generator("cpu")[1]["classes"] == 2
    assert sorted(file.stem for file in (run.path / "samples").iterdir()) == [
        "00000001",
        "00000002",
    ]

    longer = [part.replace("iterations=2", "iterations=3") for part in command]
    code, out, _ = vkd(*longer)
    assert code == 0
    assert "continues with its own settings" in out
    assert "from iteration 2 of 3" in out
    assert "finished already" in vkd(run.path, "--resume", "train.iterations=3")[1]
    code, _, err = vkd(*longer, "train.d_lr=1e-3")
    assert code == 2
    assert "train.d_lr: 0.0025 -> 0.001" in err
    code, _, err = vkd(*longer, "--size", 64, "--out", run.path)
    assert code == 2
    assert "data.resolution: 32 -> 64" in err


def test_a_folder_with_the_name_of_a_registered_set_is_a_folder(vkd, tmp_path):
    folder(tmp_path, {f"digits/{i}.png": encoded(picture(i)) for i in range(4)})
    code, out, _ = vkd("digits", *TINY, "train.iterations=1")
    assert code == 0
    assert "4 images" in out


def test_invalid_settings_are_refused_before_anything_else(vkd, tmp_path, monkeypatch):
    folder(tmp_path, {"photos/a.png": b"no picture"})
    assert vkd("photos", "train.batch_sise=3")[0] == 2
    code, _, err = vkd("photos", "--size", 33)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "data.resolution = 33" in err
    assert vkd("photo.zip")[::2] == (2, f"vkd: {tmp_path / 'photo.zip'}: no such folder or zip\n")
    code, _, err = vkd("folder", "--size", 64)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "--size is for" in err
    for wrong, reason in (
        (["data.source=other"], "and data.source: give one of them"),
        (["--out", "photos"], "is the folder of the pictures"),
        (["--out", "file"], "--out file: is a file"),
        (["data.num_images=5"], "data.num_images = 5: "),
    ):
        folder(tmp_path, {"photos/a.png": encoded(picture(0)), "file": b""})
        code, _, err = vkd("photos", "--dry-run", *wrong)
        assert (code, len(err.splitlines())) == (2, 1)
        assert reason in err
    for key in ("data.heldout", "evaluate.reference"):
        for other, reason in (("WRONG", "no such folder or zip"), ("file", "nor a readable zip")):
            code, _, err = vkd("photos", "--dry-run", f"{key}={other}")
            assert (code, len(err.splitlines())) == (1, 1)
            assert err.startswith(f"vkd: {key} = {other}: ")
            assert reason in err
    unheld = "evaluate.reference=heldout", "evaluate.features.name=cifar_resnet20"
    code, _, err = vkd("photos", "--dry-run", *unheld)
    assert (code, err) == (
        2,
        "vkd: evaluate.reference = heldout: give data.heldout=FOLDER as well\n",
    )
    monkeypatch.setattr(ranks, "launched", lambda: True)
    assert "under torchrun give settings or a run folder" in vkd("photos")[2]


def test_an_estimate_leaves_nothing_in_memory(
    small: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    def games() -> int:
        return sum(type(thing) is Game for thing in gc.get_objects())

    gc.collect()
    before = games()
    found = estimate(small("cache=/nowhere", arm="none"), [str(i) for i in range(10)], 100, "cpu")
    assert games() == before
    assert "few pictures" not in capsys.readouterr().out  # of the noise
    assert min(found.iteration, found.grid, found.checkpoint, found.evaluation) > 0
    assert found.total > found.iteration
    assert found.memory > found.file > 0


def test_iterations_are_counted_by_their_lazy_terms():
    settings = load_settings(CONFIGS / "folder.yaml", ["+networks/stylegan2", "data.source=x"])
    terms = [_lazy_terms(settings, done) for done in range(16)]
    assert [sum(column) for column in zip(*terms, strict=True)] == [1, 16, 4]  # R1, teacher, length
    settings = load_settings(CONFIGS / "folder.yaml", ["data.source=x", "train.d_steps=4"])
    assert len({_lazy_terms(settings, done) for done in range(16)}) == 1
