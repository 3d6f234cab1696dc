"""Generators in the layout of huggingface_hub: saved, loaded, described; no network is used."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, hub_mixin
from safetensors.torch import load_file, save_file

from gan_vkd.cli import main
from gan_vkd.game.settings import load_settings
from gan_vkd.hub import PretrainedGenerator, load_generator
from gan_vkd.networks.interface import NETWORKS
from gan_vkd.networks.sampling import draw_samples
from gan_vkd.report.card import card
from gan_vkd.run import Run
from gan_vkd.runtime import hub
from gan_vkd.runtime.errors import VkdError
from tests.processes import called

ROOT = Path(__file__).resolve().parents[1]
NAME = "FD(classifier_x)"
JUDGE = {"frechet_name": NAME, "kernel_name": "KD(classifier_x)", "identity": "abc"}


@pytest.fixture(params=["biggan", "stylegan2"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A run folder with an untrained generator of three classes and one evaluation."""
    options = {
        "biggan": "{ch: 2, z_dim: 8}",
        "stylegan2": "{name: stylegan2, channel_max: 8, z_dim: 8}",
    }
    file = tmp_path / "small.yaml"
    file.write_text(
        f"arm: <b>mine</b>\nmodel: {options[request.param]}\n"
        "data: {source: /home/me/secret/photos, resolution: 32}\n"
        "evaluate: {features: {name: cifar_resnet20, weights: /home/me/judge.th}}\n"
    )
    settings, run = load_settings(file), Run(tmp_path / "run")
    run.write_settings(settings.dump())
    torch.manual_seed(0)
    generator = NETWORKS.make(settings.model.chosen).generator(settings.data.shape, 3)
    facts = {"iteration": 5, "shares": [0.5, 0.25, 0.25], "names": ["a", "b", "c"]}
    run.export(generator, facts)
    for iteration, distance in ((4, 77.0), (5, 12.5)):
        judge = JUDGE | {"frechet": distance, "kernel": 0.25}
        record = {"iteration": iteration, "num_samples": 100, "reference": "train"}
        record |= {"reference_images": 60, "training_images": 60, "judges": [judge]}
        run.append("metrics", record)
    return run.path


def same(a: PretrainedGenerator, run: Path) -> bool:
    generator, facts = Run(run).load_generator("cpu")
    return torch.equal(a.draw(4, seed=1), draw_samples(generator, facts["shares"], 4, 4, 1))


def test_a_run_is_saved_and_loaded_again(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = called(main, "export", run, out, "--hub")
    assert done.returncode == 0, done.stderr
    assert f"hf upload OWNER/NAME {out}" in done.stdout
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    loaded = PretrainedGenerator.from_pretrained(out)
    assert same(loaded, run)
    assert not loaded.training
    assert loaded.facts["names"] == ["a", "b", "c"]
    z, labels = loaded.network.latents(2), torch.tensor([0, 2])
    assert loaded(z, labels).shape == (2, 3, 32, 32)
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (again / name).read_bytes() == (out / name).read_bytes()


def test_the_card_states_the_facts_of_the_run(run: Path, tmp_path: Path) -> None:
    PretrainedGenerator.of_run(run).save_pretrained(tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    for expected in ("photos", r"FD(classifier\_x)", "12.5", "100 samples to 60 images (train)",
                     "5 of ", "vkd train settings.yaml", "# license:"):  # fmt: skip
        assert expected in text
    for absent in ("FID", "77", "/home", "secret", "arm <b>"):
        assert absent not in text
    card = ModelCard(text)
    assert card.data.library_name == "gan_vkd"
    assert card.data.license is None
    config = (tmp_path / "out" / "config.json").read_text()
    assert "/home" not in config
    assert b"/home" not in (tmp_path / "out" / "model.safetensors").read_bytes()


def test_a_card_that_has_been_edited_is_kept(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("mine")
    assert "its README.md is kept" in called(main, "export", run, out, "--hub").stdout
    assert (out / "README.md").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_one_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    done = called(main, "export", run, tmp_path / "taken", "--hub")
    assert done.returncode == 1
    assert done.stderr == f"vkd: {tmp_path / 'taken'}: cannot be written (File exists)\n"


def test_torch_hub_loads_every_form(run: Path, tmp_path: Path) -> None:
    PretrainedGenerator.of_run(run).save_pretrained(tmp_path / "out")
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((run / "generator.safetensors").read_bytes())
    for source in (run, alone, tmp_path / "out"):
        assert same(torch.hub.load(str(ROOT), "generator", str(source), source="local"), run)


def test_a_repository_is_fetched_by_name(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PretrainedGenerator.of_run(run).save_pretrained(tmp_path / "out")
    asked: list[Any] = []

    def fetch(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(tmp_path / "out")

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    assert same(PretrainedGenerator.from_pretrained("me/photos", revision="v1"), run)
    assert asked[0][0] == "me/photos"
    assert asked[0][1]["revision"] == "v1"


def test_uploads_have_the_same_files(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, list[str]] = {}

    class Api:
        def __init__(self, token: str | None) -> None: ...

        def create_repo(self, repo_id: str, **options: Any) -> Any:
            return type("Repository", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id: str, folder_path: Path, **options: Any) -> str:
            sent[repo_id] = sorted(p.name for p in folder_path.iterdir())
            return "done"

    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    assert PretrainedGenerator.of_run(run).push_to_hub("me/photos") == "done"
    assert sent == {"me/photos": ["README.md", "config.json", "model.safetensors"]}


def refusal(source: Path) -> str:
    with pytest.raises(VkdError) as caught:
        load_generator(str(source))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("run", ["biggan"], indirect=True)
def test_strangers_files_are_checked(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    PretrainedGenerator.of_run(run).save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    for key in ("height", "model", "classes", "shares"):
        (out / "config.json").write_text(json.dumps(config | {key: 10**7}))
        assert f"config.json: not a file of this project: {key}: " in refusal(out)
    (out / "config.json").write_text("[" * 100_000)
    assert "not JSON" in refusal(out)
    (out / "config.json").write_text(json.dumps(config))
    state = load_file(out / "model.safetensors")
    save_file(state | {"linear.bias": torch.full_like(state["linear.bias"], torch.nan)},
              out / "model.safetensors")  # fmt: skip
    assert "not finite" in refusal(out)
    save_file({"linear.bias": torch.zeros(2)}, out / "model.safetensors")
    assert "model.safetensors" in refusal(out)
    (out / "model.safetensors").unlink()
    assert "no such file" in refusal(out)

    def unreachable(*args: Any, **options: Any) -> None:
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    assert "not fetched from the Hub" in refusal(tmp_path / "nowhere")


def test_a_backslash_of_a_run_does_not_undo_an_escape() -> None:
    title = r"\[a\](http://b)"
    made = card(title=title, pipeline="x", facts={"a": 1}, usage="x", command="x", settings={})
    assert r"# \\\[a\\\](http://b)" in made
