"""The command line: exit codes, one line per fault on stderr."""

import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_vkd.cli import main
from gan_vkd.evaluation.distances import frechet_distance
from gan_vkd.evaluation.record import distances
from gan_vkd.game.settings import load_settings
from gan_vkd.networks.biggan import Generator
from gan_vkd.run import Run
from tests.conftest import evaluator_of
from tests.processes import called, process

ROOT = Path(__file__).resolve().parents[1]
NO_RUN = "not a run folder (no settings.yaml in it)"
NO_DATA = "no such folder or file"
SMALL = "arm: none\ndevice: cpu\ndata: {source: digits}\nmodel: {ch: 2, z_dim: 8}\n"


@pytest.fixture
def vkd():
    """Returns a function that runs the command in this process: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        done = called(main, *arguments)
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture
def config(tmp_path) -> Path:
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "small.yaml"


@pytest.fixture
def run(tmp_path, config) -> Path:
    torch.manual_seed(0)
    run = Run(tmp_path / "run")
    run.write_settings(load_settings(config).dump())
    run.export(Generator(32, 2, 8, 3), {"iteration": 5, "shares": [0.5, 0.25, 0.25]})
    return run.path


def refused(answer: tuple[int, str, str], code: int) -> str:
    exit_code, _, err = answer
    assert exit_code == code, err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("vkd: ")
    return err


# output that cannot be written


@pytest.mark.parametrize(
    "arguments",
    [["configs"], ["configs", "quickstart"], ["--help"], ["--version"], ["sample", "RUN", "--out",
     "OUT", "--count", "1"]],
)  # fmt: skip
@pytest.mark.parametrize("unbuffered", [[], ["-u"]])
def test_a_full_output_is_a_fault_in_one_line(arguments, unbuffered, run, tmp_path):
    words = [{"RUN": str(run), "OUT": str(tmp_path / "out")}.get(word, word) for word in arguments]
    with open("/dev/full", "w") as full:
        done = process(*unbuffered, "-m", "gan_vkd", *words, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "vkd: the output cannot be written (No space left on device)\n"


@pytest.mark.parametrize("unbuffered", [[], ["-u"]])
def test_a_closed_pipe_ends_the_program_silently(unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        done = process(*unbuffered, "-m", "gan_vkd", "configs", stdout=closed)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_fault_is_told_beside_a_full_output(tmp_path):
    with open("/dev/full", "w") as full:
        done = process("-m", "gan_vkd", "train", "nowhere", stdout=full)
    assert done.returncode == 2
    assert done.stderr == "vkd: nowhere: no such settings file\n"


def test_output_may_be_closed():
    done = process("-c", "import os, runpy, sys; os.close(1); sys.exit(os.system("
                   f"'{sys.executable} -m gan_vkd configs'))")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_no_arguments_show_the_commands(vkd):
    _, out, err = vkd()
    for command in (
        "train",
        "sweep",
        "evaluate",
        "sample",
        "compare",
        "export",
        "import",
        "teach",
    ):
        assert command in out + err


@pytest.mark.parametrize(
    "line",
    ["fly", "train", "train x.yaml --fast", "sample --out x", "sample run --out x --count 0",
     "sample run --out x --seed -1", f"sample run --out x --seed {2**32}"],
)  # fmt: skip
def test_usage_errors(line, vkd):
    code, _, err = vkd(*line.split())
    assert code == 2
    assert "Traceback" not in err
    assert "Usage" in err


# warnings of other packages


def test_warnings_about_images_do_not_reach_the_terminal(tmp_path, config):
    """A damaged EXIF block, and an image that Pillow takes for an attack."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\0\x12")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "b.png")
    limit = "data.max_megapixels=64"
    out = "--out", str(tmp_path / "new")
    done = process("-m", "gan_vkd", "train", str(config), f"data.source={tmp_path}", limit, *out)
    (said,) = done.stderr.splitlines()
    assert "1 of 2 images cannot be used: b.png (10000x10000 pixels" in said


def test_warnings_about_few_samples_do_not_reach_the_terminal(capsys):
    """scipy's of a singular matrix; those about anything else are kept."""
    features = np.random.default_rng(0).normal(size=(20, 3))[:, [0] * 64]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert frechet_distance(features, features + 1) == pytest.approx(64, abs=0.1)
        with pytest.raises(RuntimeWarning):
            warnings.warn("odd", RuntimeWarning, stacklevel=1)
    assert capsys.readouterr() == ("", "")


# settings


@pytest.mark.parametrize("command", ["train", "teach"])
def test_missing_settings_file(command, vkd, tmp_path):
    assert "no such settings file" in refused(vkd(command, tmp_path / "no.yaml"), 2)


@pytest.mark.parametrize(
    ("override", "expected"),
    [("sede=1", "did you mean seed?"), ("train.g_lr=fast", "train.g_lr = 'fast'"),
     ("seed", "expected key.sub=value"), ("data.num_images=99999", "has 1500"),
     ("data.fraction=0.00001", "a subset of 0 images")],
)  # fmt: skip
def test_invalid_overrides_are_refused(override, expected, vkd, config, tmp_path):
    assert expected in refused(vkd("train", config, override, "--out", tmp_path / "new"), 2)
    assert not (tmp_path / "new").exists()


def test_every_fault_has_its_own_line(vkd, config):
    code, _, err = vkd("train", config, "sede=1", "model.ch=0")
    assert code == 2
    assert [line.startswith("vkd: ") for line in err.splitlines()] == [True, True]


@pytest.mark.parametrize(
    ("override", "expected"),
    [("data.source=/no/where", NO_DATA), ("device=abacus", "device abacus"),
     ("evaluate.features={name: classifier, weights: /no/where}", "/no/where")],
)  # fmt: skip
def test_train_fails_before_it_creates_a_folder(override, expected, vkd, config, tmp_path):
    assert expected in refused(vkd("train", config, override, "--out", tmp_path / "new"), 1)
    assert not (tmp_path / "new").exists()


def test_train_refuses_damaged_images(vkd, config, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"x")
    answer = vkd("train", config, f"data.source={folder}", "--out", tmp_path / "new")
    assert "b.png (not an image)" in refused(answer, 1)


def test_train_refuses_an_existing_run_folder(vkd, config, run):
    assert "holds a run already" in refused(vkd("train", config, "--out", run), 2)


# the other commands


def test_sample_writes_the_requested_number_of_images(vkd, run, tmp_path):
    code, out, _ = vkd("sample", run, "--out", tmp_path / "many", "--count", 7, "--device", "cpu")
    assert code == 0
    assert str(tmp_path / "many") in out
    files = sorted((tmp_path / "many").iterdir())
    assert [file.name for file in files] == [f"{i:06d}.png" for i in range(7)]
    for file in files:
        with Image.open(file) as image:
            assert (image.size, image.mode) == ((32, 32), "RGB")


def test_samples_depend_on_the_seed_only(vkd, run, tmp_path):
    def draw(name: str, seed: int) -> bytes:
        path = tmp_path / name
        assert vkd("sample", run, "--out", path, "--count", 1, "--seed", seed)[0] == 0
        return (path / "000000.png").read_bytes()

    assert draw("a", 0) == draw("b", 0)
    assert draw("c", 1) != draw("a", 0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("x.png", "PNG"), ("x.jpg", "JPEG"), ("x.JPEG", "JPEG"), ("x.webp", "WEBP"), ("x.bmp", "BMP"),
     ("x.tiff", "TIFF")],
)  # fmt: skip
def test_sample_writes_one_grid_in_the_format_of_the_name(name, kind, vkd, run, tmp_path):
    code, out, err = vkd("sample", run, "--out", tmp_path / name)
    assert (code, out, err) == (0, f"{tmp_path / name}\n", "")
    with Image.open(tmp_path / name) as image:
        assert image.format == kind
        assert image.width > 320
        assert image.height > 96


@pytest.mark.parametrize("name", ["grid.xyz", "v1.0", "grid.pdf"])
def test_sample_takes_other_names_as_folders(name, vkd, run, tmp_path):
    assert vkd("sample", run, "--out", tmp_path / name, "--count", 1)[0] == 0
    assert [file.name for file in (tmp_path / name).iterdir()] == ["000000.png"]


@pytest.mark.parametrize("place", ["file/x.png", "file/x.jpg", "file/folder", "folder.png"])
def test_sample_refuses_an_unwritable_path(place, vkd, run, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    assert "cannot be written" in refused(vkd("sample", run, "--out", tmp_path / place), 1)


@pytest.mark.parametrize("device", ["abacus", "meta"])
def test_sample_refuses_an_unknown_device(device, vkd, run, tmp_path):
    answer = vkd("sample", run, "--out", tmp_path / "x.png", "--device", device)
    assert f"device {device}" in refused(answer, 1)


COMMANDS = [("sample", "--out", "x.png"), ("export", "x.pth")]


@pytest.mark.parametrize(("command", "extra"), [(c[0], c[1:]) for c in COMMANDS])
def test_a_folder_without_a_run_is_refused(command, extra, vkd, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert NO_RUN in refused(vkd(command, "nowhere", *extra), 1)
    assert NO_RUN in refused(vkd(command, tmp_path, *extra), 1)
    Run(tmp_path / "new").write_settings(load_settings(config).dump())
    assert "no generator yet" in refused(vkd(command, "new", *extra), 1)
    assert sorted(os.listdir(tmp_path)) == ["new", "small.yaml"]


@pytest.mark.parametrize(("command", "extra"), [(c[0], c[1:]) for c in COMMANDS])
def test_a_damaged_generator_is_refused(command, extra, vkd, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = run / "generator.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert "generator.safetensors: damaged" in refused(vkd(command, run, *extra), 1)


def test_evaluate_does_not_write_to_the_cache_of_the_runs_settings(vkd, run, classifier, tmp_path):
    chosen = [
        f"evaluate.features={{name: classifier, weights: {classifier}}}",
        "evaluate.num_samples=20",
    ]
    settings = run / "settings.yaml"
    trap, own = tmp_path / "trap", tmp_path / "own"
    before = settings.read_text()
    assert "cache: null" in before
    settings.write_text(before.replace("cache: null", f"cache: {trap}"))
    try:
        assert vkd("evaluate", run, *chosen)[0] == 0
        assert not trap.exists()
        assert vkd("evaluate", run, *chosen, f"cache={own}")[0] == 0
        assert list(own.iterdir())
    finally:
        settings.write_text(before)


def test_evaluate_uses_running_statistics_on_request(vkd, run, classifier):
    chosen = [
        f"evaluate.features={{name: classifier, weights: {classifier}}}",
        "evaluate.num_samples=20",
    ]
    for mode in ("running", "standing"):
        assert vkd("evaluate", run, *chosen, f"evaluate.batch_norm={mode}")[0] == 0
    stored, anew = Run(run).records("evaluations")
    assert (stored["batch_norm"], anew["batch_norm"]) == ("running", "standing")
    settings = load_settings(run, [*chosen, "evaluate.batch_norm=running"])
    generator, facts = Run(run).load_generator("cpu")
    expected = evaluator_of(settings)(generator, facts["shares"])
    assert distances(stored) == distances(expected)
    assert distances(anew)["FD(classifier)"] != distances(expected)["FD(classifier)"]


@pytest.mark.parametrize(
    ("command", "extra"),
    [*((c[0], c[1:]) for c in COMMANDS), ("evaluate", ())],
)
def test_a_generator_that_is_not_finite_is_refused(command, extra, vkd, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator, facts = Run(run).load_generator("cpu")
    generator.linear.weight[0, 0] = float("nan")
    Run(run).export(generator, facts)
    message = refused(vkd(command, run, *extra), 1)
    assert "generator.safetensors: linear.weight is not finite" in message


def test_evaluate_needs_a_generator_and_weights(vkd, config, run, tmp_path):
    empty = Run(tmp_path / "empty")
    empty.write_settings(load_settings(config).dump())
    assert "no generator yet" in refused(vkd("evaluate", empty.path), 1)
    answer = vkd("evaluate", run, "--inception", tmp_path / "no'where.pt")
    assert "no'where.pt: no such file" in refused(answer, 1)
    assert "unknown key" in refused(vkd("evaluate", run, "evaluate.sede=1"), 2)
    assert not (run / "evaluations.jsonl").exists()


def test_export_then_import_then_sample(vkd, config, run, tmp_path):
    weights, imported = tmp_path / "G.pth", tmp_path / "imported"
    assert vkd("export", run, weights)[0] == 0
    assert vkd("import", weights, config, "--out", imported)[0] == 0
    assert vkd("sample", imported, "--out", tmp_path / "x.png")[0] == 0
    assert "holds a run already" in refused(vkd("import", weights, config, "--out", imported), 2)
    again = vkd("import", weights, config, "model.ch=4", "--out", tmp_path / "wide")
    assert "size mismatch" in refused(again, 1)
    assert ".safetensors, .pth or .onnx" in refused(vkd("export", run, tmp_path / "G.pt"), 2)


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04\x95"])
def test_import_refuses_files_without_weights(content, vkd, config, tmp_path, recwarn):
    (tmp_path / "G.pth").write_bytes(content)
    answer = vkd("import", tmp_path / "G.pth", config, "--out", tmp_path / "new")
    assert "not a file of weights" in refused(answer, 1)
    assert not recwarn.list, "a warning would be a second line"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("of_the_run", "name"),
    [
        ("cifar_resnet20", "inception"),
        ("inception", "inception"),
        ("inception_legacy_tensorflow", "inception_legacy_tensorflow"),
    ],
)
def test_evaluate_uses_the_inception_mode_of_the_run(
    vkd, tmp_path, run, monkeypatch, of_the_run, name
):
    used = []

    def evaluator(settings, data, device, cache):
        used.append(settings.features)
        inception = {"name": "inception", "identity": "", "frechet_name": "FID",
                     "kernel_name": "KID", "frechet": 1.0, "kernel": 0.5}  # fmt: skip
        return lambda generator, shares: {"judges": [inception]}

    monkeypatch.setattr("gan_vkd.evaluation.evaluator.Evaluator", evaluator)
    file = run / "settings.yaml"
    overrides = [f"evaluate.features={{name: {of_the_run}}}"]
    file.write_text(load_settings(file, overrides).dump())
    code, out, _ = vkd("evaluate", run, "--inception", tmp_path / "inception.pt")
    assert code == 0
    assert "FID: 1.0" in out
    assert (used[0].name, used[0].weights) == (name, str(tmp_path / "inception.pt"))


def test_teach_prints_the_accuracy(vkd, tmp_path):
    (tmp_path / "t.yaml").write_text("device: cpu\ndata: {source: digits}\niterations: 1\n")
    out = tmp_path / "deep" / "t.safetensors"
    code, stdout, _ = vkd("teach", tmp_path / "t.yaml", "batch_size=4", "--out", out)
    assert code == 0
    assert out.is_file()
    assert f"{out}: " in stdout
    assert "held-out accuracy " in stdout


def test_teach_refuses_the_settings_of_a_gan(vkd, config):
    code, _, err = vkd("teach", config)
    assert code == 2
    assert all(line.startswith("vkd: ") for line in err.splitlines())
    assert "arm: unknown key" in err


def test_compare_refuses_folders_without_runs(vkd, tmp_path):
    answer = vkd("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "table")
    refused(answer, answer[0])
    assert answer[0] in (1, 2)
