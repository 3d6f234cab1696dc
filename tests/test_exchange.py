"""Import and export of generators, bit for bit."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from gan_vkd.exchange import export_generator, import_generator
from gan_vkd.game.settings import Settings, load_settings
from gan_vkd.networks.biggan import Generator
from gan_vkd.networks.sampling import draw_samples
from gan_vkd.report.pictures import save_png
from gan_vkd.run import Run
from gan_vkd.runtime.errors import SettingsError, VkdError
from tests.conftest import small_disk
from tests.real_data import SHARED, needs_shared


@pytest.fixture
def settings(tmp_path) -> Settings:
    file = tmp_path / "small.yaml"
    file.write_text("arm: none\ndata: {source: digits}\nmodel: {ch: 2, z_dim: 8}\n")
    return load_settings(file)


def random_state(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Returns random weights with positive variances and singular values."""
    torch.manual_seed(0)
    state = {name: torch.randn(shape) * 0.1 for name, shape in shapes.items()}
    positive = ("stored_var", "sv0")
    return {k: v.abs() + 0.5 if k.endswith(positive) else v for k, v in state.items()}


def small_state(classes: int = 3) -> dict[str, torch.Tensor]:
    network = Generator(32, 2, 8, classes)
    return random_state({name: list(v.shape) for name, v in network.state_dict().items()})


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert set(a) == set(b)
    for name, value in a.items():
        assert value.dtype == b[name].dtype
        assert torch.equal(value, b[name]), name


def refusal(call, kind: type[VkdError] = VkdError) -> str:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


@needs_shared
def test_published_generator_is_imported_sampled_and_exported(tmp_path):
    reference = SHARED / "reference" / "biggan_cifar10_G.json"
    state = random_state(json.loads(reference.read_text()))
    torch.save(state, tmp_path / "G_ema.pth")
    config = Path(__file__).resolve().parents[1] / "configs" / "cifar10_10pct.yaml"
    import_generator(tmp_path / "G_ema.pth", load_settings(config), tmp_path / "run")
    generator, facts = Run(tmp_path / "run").load_generator("cpu")
    assert facts["classes"] == 10
    assert facts["shares"] == [0.1] * 10
    samples = draw_samples(generator, facts["shares"], 4, 4, seed=0)
    assert samples.shape == (4, 3, 32, 32)
    assert samples.float().std() > 1
    export_generator(tmp_path / "run", tmp_path / "out.pth")
    assert_equal(torch.load(tmp_path / "out.pth", weights_only=True), state)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("given", [".pth", ".safetensors"])
@pytest.mark.parametrize("wanted", [".pth", ".safetensors"])
def test_import_and_export_are_bit_identical(classes, given, wanted, settings, tmp_path):
    state, file, out = small_state(classes), tmp_path / f"G{given}", tmp_path / f"out{wanted}"
    (torch.save if given == ".pth" else save_file)(state, file)
    import_generator(file, settings, tmp_path / "run")
    assert Run(tmp_path / "run").settings() == settings
    assert Run(tmp_path / "run").load_generator("cpu")[1]["classes"] == classes
    export_generator(tmp_path / "run", out)
    assert_equal(torch.load(out, weights_only=True) if wanted == ".pth" else load_file(out), state)


def test_samples_come_from_the_imported_weights(settings, tmp_path):
    state = small_state()
    torch.save(state, tmp_path / "G.pth")
    import_generator(tmp_path / "G.pth", settings, tmp_path / "run")
    ours = Generator(32, 2, 8, 3)
    ours.load_state_dict(state)
    loaded, facts = Run(tmp_path / "run").load_generator("cpu")
    expected = draw_samples(ours.eval(), facts["shares"], 6, 3, seed=1)
    assert torch.equal(draw_samples(loaded, facts["shares"], 6, 3, seed=1), expected)
    assert len(np.unique(expected.numpy())) > 10


@pytest.mark.parametrize("name", ["out", "out.pt", "out.onnx.zip", "out.pth.zip"])
def test_other_suffixes_are_refused(name, settings, tmp_path):
    torch.save(small_state(), tmp_path / "G.pth")
    import_generator(tmp_path / "G.pth", settings, tmp_path / "run")
    message = refusal(lambda: export_generator(tmp_path / "run", tmp_path / name), SettingsError)
    assert ".safetensors, .pth or .onnx" in message
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    "content",
    [{}, {"conv1.weight": torch.ones(2)}, {"blocks.0.0.bn1.gain.weight": "text"},
     {"blocks.0.0.bn1.gain.weight": torch.tensor(1.0)},
     {"blocks.0.0.bn1.gain.weight": torch.empty(0, 8)},
     {"blocks.0.0.bn1.gain.weight": torch.ones(3, 8)}, [1, 2], torch.ones(3)],
    ids=range(8),
)  # fmt: skip
def test_weights_of_another_network_create_no_run(content, settings, tmp_path):
    torch.save(content, tmp_path / "G.pth")
    message = refusal(lambda: import_generator(tmp_path / "G.pth", settings, tmp_path / "run"))
    assert str(tmp_path / "G.pth") in message
    assert not (tmp_path / "run").exists()


def test_weights_of_another_width_are_refused(settings, tmp_path):
    wide = Generator(32, 4, 8, 3).state_dict()
    torch.save(wide, tmp_path / "G.pth")
    message = refusal(lambda: import_generator(tmp_path / "G.pth", settings, tmp_path / "run"))
    assert "size mismatch" in message
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_finite_are_refused(settings, tmp_path):
    state = Generator(32, 2, 8, 3).state_dict()
    state["linear.bias"][0] = float("nan")
    torch.save(state, tmp_path / "G.pth")
    message = refusal(lambda: import_generator(tmp_path / "G.pth", settings, tmp_path / "run"))
    assert message.endswith("linear.bias is not finite")
    assert not (tmp_path / "run").exists()


def test_a_pickle_with_code_is_refused_in_our_words(settings, tmp_path):
    torch.save({"a": torch.nn.Linear(1, 1)}, tmp_path / "G.pth")
    message = refusal(lambda: import_generator(tmp_path / "G.pth", settings, tmp_path / "run"))
    assert "with more than tensors in it" in message
    assert "weights_only" not in message


def test_missing_weights_are_refused(settings, tmp_path):
    message = refusal(lambda: import_generator(tmp_path / "no.pth", settings, tmp_path / "run"))
    assert "no such file" in message


def test_a_run_is_never_overwritten(settings, tmp_path):
    torch.save(small_state(), tmp_path / "G.pth")
    import_generator(tmp_path / "G.pth", settings, tmp_path / "run")
    before = (tmp_path / "run" / "generator.safetensors").read_bytes()
    torch.save({k: v + 1 for k, v in small_state().items()}, tmp_path / "G.pth")
    call = lambda: import_generator(tmp_path / "G.pth", settings, tmp_path / "run")  # noqa: E731
    assert "holds a run already" in refusal(call, SettingsError)
    assert (tmp_path / "run" / "generator.safetensors").read_bytes() == before


def test_export_refuses_a_folder_without_a_generator(tmp_path):
    assert "no generator yet" in refusal(lambda: export_generator(tmp_path, tmp_path / "out.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_full_disk_keeps_the_old_export(suffix, settings, tmp_path):
    torch.save(small_state(), tmp_path / "G.pth")
    import_generator(tmp_path / "G.pth", settings, tmp_path / "run")
    out = tmp_path / "out" / f"G{suffix}"
    export_generator(tmp_path / "run", out)
    before = out.read_bytes()
    with small_disk(1000):
        message = refusal(lambda: export_generator(tmp_path / "run", out))
    assert "cannot be written" in message
    assert out.read_bytes() == before
    assert os.listdir(out.parent) == [out.name]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_export_refuses_an_unwritable_path(suffix, settings, tmp_path):
    torch.save(small_state(), tmp_path / "G.pth")
    import_generator(tmp_path / "G.pth", settings, tmp_path / "run")
    out = tmp_path / "G.pth" / f"out{suffix}"
    assert "cannot be written" in refusal(lambda: export_generator(tmp_path / "run", out))


def test_samples_are_written_as_a_png(settings, tmp_path):
    """As with `vkd import` and `vkd sample`: the PNG has the samples' pixels."""
    torch.save(small_state(), tmp_path / "G.pth")
    import_generator(tmp_path / "G.pth", settings, tmp_path / "run")
    generator, facts = Run(tmp_path / "run").load_generator("cpu")
    image = draw_samples(generator, facts["shares"], 1, 1, seed=0)[0]
    save_png(image, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), image.permute(1, 2, 0))
