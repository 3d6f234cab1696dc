"""`init_from`: runs that start from another run or from a file of weights."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gan_vkd.exchange import export_generator
from gan_vkd.game.settings import Settings
from gan_vkd.run import Run
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.stopping import Stopped
from gan_vkd.training import Game, train
from gan_vkd.transfer import networks_of, of_classes
from tests.conftest import MakeSettings, Trained
from tests.resuming import stop_in
from tests.states import assert_identical
from tests.test_r3gan_training import R3GAN
from tests.test_stylegan2_training import STYLEGAN2

UNCONDITIONAL = "data.conditional=false"
SHORT = ("train.iterations=2", "evaluate.every=2", "train.ema_start=0")


def begun(settings: Settings, folder: Path) -> Game:
    torch.manual_seed(7)
    return Game(settings, Run(folder), "cpu")


def states(game: Game) -> dict[str, dict[str, Tensor]]:
    trainer = game.trainer
    return {
        "generator": trainer.generator.state_dict(),
        "average": trainer.ema.generator.state_dict(),
        "discriminator": trainer.discriminator.state_dict(),
    }


def unequal(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name, value in one.items() if not torch.equal(value, other[name])}


def refusal(settings: Settings, folder: Path) -> str:
    with pytest.raises(VkdError, match="init_from = ") as caught:
        begun(settings, folder)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("options", [(), STYLEGAN2], ids=["biggan", "stylegan2"])
def test_all_networks_of_a_run_are_copied_and_recorded(
    options: tuple[str, ...],
    small: MakeSettings,
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = trained(*options, *SHORT, arm="none")
    before = networks_of(source)
    assert unequal(before["generator"], before["average"])
    game = begun(small(*options, f"init_from={source}", arm="none"), tmp_path / "run")
    for name, state in states(game).items():
        assert not unequal(state, before[name]), name
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "init_from" in x]
    record = json.loads((tmp_path / "run" / "init_from.json").read_text())
    assert record["source"] == str(source)
    assert f"sha256 {record['sha256'][:12]}" in line
    assert record["discriminator"] == {
        "copied": len(before["discriminator"]),
        "anew": [],
        "unused": [],
    }
    assert f"generator and its EMA: {len(before['average'])} tensors copied; " in line


CLASS_LAYERS = {
    "biggan": (
        {
            f"blocks.{i}.0.bn{j}.{kind}"
            for i in range(3)
            for j in (1, 2)
            for kind in ("gain", "bias")
        },
        {"embed"},
    ),
    "stylegan2": (
        {"mapping.embed", "mapping.fc0"},
        {"b4.out", "mapping.embed", *(f"mapping.fc{i}" for i in range(8))},
    ),
    "r3gan": ({"embed", "b4.0.linear"}, {"embed", "out"}),
}
OPTIONS = {"biggan": (), "stylegan2": STYLEGAN2, "r3gan": R3GAN}


@pytest.mark.parametrize("network", CLASS_LAYERS)
def test_layers_of_the_classes_are_started_anew(
    network: str, small: MakeSettings, trained: Trained, tmp_path: Path
) -> None:
    """From without to with classes: everything else is copied."""
    options = OPTIONS[network]
    source = trained(*options, *SHORT, UNCONDITIONAL, arm="none")
    before = networks_of(source)
    fresh = states(begun(small(*options, arm="none"), tmp_path / "fresh"))
    game = begun(small(*options, f"init_from={source}", arm="none"), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "init_from.json").read_text())
    of_generator, of_discriminator = CLASS_LAYERS[network]
    expected = dict.fromkeys(("generator", "average"), of_generator)
    for name, layers in (expected | {"discriminator": of_discriminator}).items():
        assert set(record[name]["anew"]) == layers
        for key, value in states(game)[name].items():
            other = fresh if key.rpartition(".")[0] in layers else before
            assert torch.equal(value, other[name][key]), key


def test_layers_that_have_no_place_are_named(
    small: MakeSettings, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From with to without classes."""
    source = trained(*STYLEGAN2, *SHORT, arm="none")
    settings = small(*STYLEGAN2, UNCONDITIONAL, f"init_from={source}", arm="none")
    begun(settings, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "init_from.json").read_text())
    assert record["average"]["anew"] == ["mapping.fc0"]
    assert record["average"]["unused"] == ["mapping.embed"]
    assert record["discriminator"]["anew"] == ["b4.out"]
    assert set(record["discriminator"]["unused"]) == CLASS_LAYERS["stylegan2"][1] - {"b4.out"}
    assert "anew: mapping.fc0, not used: mapping.embed; " in capsys.readouterr().out


@pytest.mark.parametrize("network", ["biggan", "stylegan2"])
def test_only_embeddings_depend_on_how_many_classes(
    network: str, small: MakeSettings, tmp_path: Path
) -> None:
    options = OPTIONS[network]
    game = begun(small(*options, arm="none"), tmp_path / "run")
    other = dict(states(game)["generator"])
    rows = {name for name in other if name.endswith(("gain.weight", "bn1.bias.weight"))}
    layers = rows | {n for n in other if n.endswith("bn2.bias.weight")} or {"mapping.embed.weight"}
    for name in layers:
        wide = other[name].T if network == "stylegan2" else other[name]
        grown = torch.cat([wide, wide[:3]])
        other[name] = (grown.T if network == "stylegan2" else grown).contiguous()
    save_file({k: v.contiguous() for k, v in other.items()}, tmp_path / "G.safetensors")
    settings = small(*options, f"init_from={tmp_path / 'G.safetensors'}", arm="none")
    begun(settings, tmp_path / "next")
    record = json.loads((tmp_path / "next" / "init_from.json").read_text())
    assert set(record["average"]["anew"]) == {name.rpartition(".")[0] for name in layers}
    assert layers <= of_classes(settings, "generator", 10)


def test_files_of_weights(
    small: MakeSettings, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = trained(*SHORT, arm="none")
    before = networks_of(source)
    flat = {f"G_ema.{k}": v for k, v in before["average"].items()}
    flat |= {f"D.{k}": v for k, v in before["discriminator"].items()}
    save_file(flat, tmp_path / "both.safetensors")
    export_generator(source, tmp_path / "exported.safetensors")
    torch.save(before["average"], tmp_path / "G_ema.pth")
    fresh = states(begun(small(arm="none"), tmp_path / "fresh"))
    exported = load_file(tmp_path / "exported.safetensors")
    for name, average in (
        ("both.safetensors", before["average"]),
        ("G_ema.pth", before["average"]),
        ("exported.safetensors", exported),
    ):
        settings = small(f"init_from={tmp_path / name}", arm="none")
        found = states(begun(settings, tmp_path / f"run_{name}"))
        assert not unequal(found["average"], average)
        assert not unequal(found["generator"], average)
        own = before if name.startswith("both") else fresh
        assert not unequal(found["discriminator"], own["discriminator"])
        said = "discriminator: not in it, anew" in capsys.readouterr().out
        assert said == (not name.startswith("both"))


def test_the_average_is_continued_from_the_first_update(
    small: MakeSettings, trained: Trained, tmp_path: Path
) -> None:
    """Without ema_start and ramp, which would replace it by the generator."""
    source = trained(*SHORT, arm="none")
    averages = ("train.ema_decay=0.9", "train.ema_decay={half_life: 50}")
    for index, decay in enumerate(averages):
        settings = small(f"init_from={source}", decay, "train.ema_start=5", arm="none")
        ema = begun(settings, tmp_path / str(index)).trainer.ema
        assert ema.start == 0
        assert ema.decay(0) == pytest.approx(0.9 if index == 0 else 0.5 ** (8 / 50))


def test_a_resumed_run_does_not_need_the_source(
    small: MakeSettings, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained(*SHORT, arm="none"), source := tmp_path / "source")
    settings = small(f"init_from={source}", "train.freeze_d=1", arm="none")
    train(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_in(patch, 3, 15)
        with pytest.raises(Stopped):
            train(settings, tmp_path / "stopped")
    shutil.rmtree(source)
    train(settings, tmp_path / "stopped", resume=True)
    assert_identical(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_again(
    small: MakeSettings, trained: Trained, tmp_path: Path
) -> None:
    source = trained(*SHORT, arm="none")
    settings = small(f"init_from={source}", arm="none")
    first = states(begun(settings, tmp_path / "run"))
    again = states(begun(settings, tmp_path / "run"))
    assert not unequal(first["discriminator"], again["discriminator"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.ch=4",
            r"of another network: blocks\.0\.0\.bn1\.stored_mean is 8 there and 16 here",
        ),
        ("model.z_dim=4", "linear.weight is 128 x 8 there and 128 x 4 here"),
        ("model={name: stylegan2, channel_base: 64}", "of another network: .* missing"),
    ],
)
def test_other_networks_are_refused_in_one_line(
    override: str, message: str, small: MakeSettings, trained: Trained, tmp_path: Path
) -> None:
    source = trained(*SHORT, arm="none")
    found = refusal(small(f"init_from={source}", override, arm="none"), tmp_path / "run")
    assert re.search(message, found), found
    assert not (tmp_path / "run" / "init_from.json").exists()


def test_unusable_sources_are_refused_in_one_line(small: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    torch.save({"a": 1, 2: "b"}, tmp_path / "odd.pth")
    save_file({"D.x": torch.ones(1)}, tmp_path / "d.safetensors")
    texts: dict[str, Any] = {
        "nothing": "no such file",
        "empty": "no checkpoint or generator",
        "odd.pth": "of another network",
        "d.safetensors": "no generator in it",
    }
    for name, text in texts.items():
        settings = small(f"init_from={tmp_path / name}", arm="none")
        with pytest.raises(VkdError, match=f"init_from = .*{text}") as caught:
            begun(settings, tmp_path / "run")
        assert len(str(caught.value).splitlines()) == 1


def test_weights_that_are_not_finite_are_refused(
    small: MakeSettings, trained: Trained, tmp_path: Path
) -> None:
    average = dict(networks_of(trained(*SHORT, arm="none"))["average"])
    average["linear.bias"] = average["linear.bias"] * float("nan")
    save_file(average, tmp_path / "G.safetensors")
    found = refusal(small(f"init_from={tmp_path / 'G.safetensors'}", arm="none"), tmp_path / "run")
    assert found.endswith("linear.bias is not finite")
