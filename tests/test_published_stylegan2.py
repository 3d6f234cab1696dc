"""StyleGAN2-ADA's weights, as its published code names them, become a run folder."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from gan_vkd.cli import app
from gan_vkd.data.shape import Shape
from gan_vkd.exchange import import_generator
from gan_vkd.game.settings import Settings, load_settings
from gan_vkd.networks.stylegan2 import StyleGAN2
from gan_vkd.networks.stylegan2.published import described
from gan_vkd.networks.stylegan2.resampling import binomial_filter
from gan_vkd.run import Run
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.training import Game
from gan_vkd.transfer import networks_of
from tests.conftest import CONFIGS, MakeSettings

SMALL = {"channel_base": 256, "channel_max": 16, "z_dim": 6, "w_dim": 8}


def published(network: nn.Module) -> dict[str, Tensor]:
    """The network's state with a filter at each layer and block, as the published code has."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    layers = {name.rpartition(".")[0] for name in state if name.endswith(".weight")}
    blocks = {name.rpartition(".")[0] for name in layers}
    filtered = re.compile(r"(synthesis\.)?b\d+(\.(conv\d?|skip|fromrgb))?")
    filters = {name for name in layers | blocks if filtered.fullmatch(name)}
    return state | {f"{name}.resample_filter": binomial_filter() for name in filters}


def networks(side: int = 64, classes: int = 0, **options: object) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    architecture, shape = StyleGAN2(**(SMALL | options)), Shape(3, side, side)
    return architecture.generator(shape, classes), architecture.discriminator(shape, classes)


def written(folder: Path, generator: nn.Module, discriminator: nn.Module | None) -> Path:
    tensors = {f"G_ema.{name}": x for name, x in published(generator).items()}
    if discriminator is not None:
        tensors |= {f"D.{name}": x for name, x in published(discriminator).items()}
    save_file(tensors, folder / "weights.safetensors")
    return folder / "weights.safetensors"


@pytest.fixture
def settings() -> Settings:
    return load_settings(CONFIGS / "folder+networks/stylegan2", ["data.source=pictures"])


@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("prefixed", [False, True])
def test_networks_are_imported_with_what_their_shapes_say(
    classes: int, residual: bool, prefixed: bool, settings: Settings, tmp_path: Path
) -> None:
    generator, discriminator = networks(64, classes, mapping_layers=3, residual=residual)
    if prefixed:
        file = written(tmp_path, generator, discriminator)
    else:
        save_file(published(generator), file := tmp_path / "G.safetensors")
    import_generator(file, settings, tmp_path / "run")
    run = Run(tmp_path / "run")
    assert run.settings().data.resolution == 64
    chosen = run.settings().model.chosen
    assert chosen == settings.model.chosen | SMALL | {
        "mapping_layers": 3,
        "residual": residual if prefixed else True,
    }
    loaded, facts = run.load_generator("cpu")
    assert facts["classes"] == classes
    assert len(facts["shares"]) == max(classes, 1)
    z, labels = torch.randn(4, 6), torch.arange(4) % max(classes, 1)
    with torch.no_grad():
        assert torch.equal(loaded(z, labels), generator.eval()(z, labels))
    found = networks_of(run.path)
    assert ("discriminator" in found) == prefixed
    if prefixed:
        for name, value in discriminator.state_dict().items():
            assert torch.equal(found["discriminator"][name], value)


def test_an_imported_run_is_a_start(small: MakeSettings, tmp_path: Path) -> None:
    generator, discriminator = networks(32, 0)
    options = load_settings(CONFIGS / "folder+networks/stylegan2", ["data.source=pictures"])
    import_generator(written(tmp_path, generator, discriminator), options, tmp_path / "run")
    model = "model={name: stylegan2, channel_base: 256, channel_max: 16, z_dim: 6, w_dim: 8}"
    for source in (tmp_path / "run", tmp_path / "weights.safetensors"):
        torch.manual_seed(0)
        game = Game(small(model, f"init_from={source}", arm="none"), Run(tmp_path / "new"), "cpu")
        name = "b32.conv1.weight"
        own = game.trainer.discriminator.state_dict()[name]
        assert torch.equal(own, discriminator.state_dict()[name])


@pytest.mark.parametrize(
    ("side", "options"),
    [(32, {}), (256, {}), (512, {"mapping_layers": 8}), (128, {"channel_base": 32768}),
     (64, {"channel_base": 1000, "channel_max": 64})],
)  # fmt: skip
def test_widths_follow_from_shapes(side: int, options: dict[str, int]) -> None:
    with torch.device("meta"):
        architecture = StyleGAN2(**options)
        state = architecture.generator(Shape(3, side, side), 7).state_dict()
        found = described(state, None)
        again = StyleGAN2(**found.options).generator(found.shape, found.classes).state_dict()
    assert found.shape == Shape(3, side, side)
    assert found.classes == 7
    assert {name: x.shape for name, x in again.items()} == {k: x.shape for k, x in state.items()}


def test_channels_and_sides_follow_from_shapes(settings: Settings, tmp_path: Path) -> None:
    """Of our own exports too, which have the published names."""
    network = StyleGAN2(**SMALL).generator(Shape(4, 48, 64), 0)
    save_file(published(network), file := tmp_path / "G.safetensors")
    import_generator(file, settings, tmp_path / "run")
    assert Run(tmp_path / "run").settings().data.resolution == (48, 64)
    assert Run(tmp_path / "run").load_generator("cpu")[0].shape == Shape(4, 48, 64)
    grey = load_settings(
        CONFIGS / "folder+networks/stylegan2", ["data.source=pictures", "data.channels=1"]
    )
    with pytest.raises(SettingsError, match=r"of 4 channels, but data\.channels = 1"):
        import_generator(file, grey, tmp_path / "grey")


def test_other_weights_are_refused_in_one_line(settings: Settings, tmp_path: Path) -> None:
    generator, discriminator = networks()
    biggan = load_settings(CONFIGS / "folder.yaml", ["data.source=pictures"])
    file = written(tmp_path, generator, discriminator)
    with pytest.raises(SettingsError, match="weights of StyleGAN2, but model = biggan"):
        import_generator(file, biggan, tmp_path / "run")

    good = published(generator)
    cases = {
        "resample_filter is not": good | {"synthesis.b8.resample_filter": torch.ones(4, 4) / 16},
        "of other widths": good | {"synthesis.b8.conv1.weight": torch.zeros(9, 16, 3, 3)},
        "not a generator of StyleGAN2": {
            k: x for k, x in good.items() if not k.startswith("mapping.fc0")
        },
        "weights of another network": {k: x for k, x in good.items() if "noise_strength" not in k},
    }
    for message, state in cases.items():
        save_file(state, file)
        with pytest.raises(VkdError, match=message) as caught:
            import_generator(file, settings, tmp_path / "run")
        assert len(str(caught.value).splitlines()) == 1
        assert not (tmp_path / "run").exists()


def test_the_command_imports_and_samples(tmp_path: Path) -> None:
    file, run = written(tmp_path, *networks(32)), tmp_path / "run"
    given = ["import", str(file), "folder+networks/stylegan2", "data.source=x", "--out", str(run)]
    for arguments in (given, ["sample", str(run), "--out", str(tmp_path / "grid.png")]):
        answer = CliRunner().invoke(app, arguments)
        assert answer.exit_code == 0, answer.output
