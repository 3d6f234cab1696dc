from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gan_vkd.distill import Teacher
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.teachers.settings import TextSettings
from gan_vkd.teachers.text import class_embeddings

open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")

TINY = {
    "embed_dim": 6,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 8, "head_width": 4, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


class Network(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :6]


def teacher(rows: torch.Tensor | None = None) -> Teacher:
    return Teacher(Network(), mean=(0.5,) * 3, std=(0.5,) * 3, class_rows=rows)


@pytest.fixture
def tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, TextSettings]:
    """Returns a tiny open_clip model with random weights, and settings of its local copy."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**TINY).eval()
    file = tmp_path / "weights.pt"
    torch.save(model.state_dict(), file)
    configs = open_clip.factory._MODEL_CONFIGS | {"tiny": TINY}
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", configs)
    monkeypatch.setattr(open_clip, "list_models", lambda: ["tiny", "ViT-B-32-quickgelu"])
    return model, TextSettings(model="tiny", weights=str(file))


def test_embeddings_are_the_mean_over_prompts(
    tower: tuple[nn.Module, TextSettings],
) -> None:
    model, settings = tower
    prompts = ["a photo of a {}.", "{}, blurred"]
    several = settings.model_copy(update={"prompts": prompts})
    rows = class_embeddings(several, teacher(), ["airplane", "maple_tree"])
    assert rows.shape == (2, 6)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
    for row, name in zip(rows, ["airplane", "maple tree"], strict=True):
        total = torch.zeros(6)
        for prompt in prompts:
            tokens = open_clip.tokenize([prompt.replace("{}", name)])
            with torch.no_grad():
                total += F.normalize(model.encode_text(tokens)[0], dim=0)
        torch.testing.assert_close(row, F.normalize(total, dim=0))


def test_the_published_prompt_is_the_default(tower: tuple[nn.Module, TextSettings]) -> None:
    model, settings = tower
    with torch.no_grad():
        expected = F.normalize(model.encode_text(open_clip.tokenize(["a cat"])), dim=1)
    torch.testing.assert_close(class_embeddings(settings, teacher(), ["cat"]), expected)


def test_embeddings_may_be_left_unnormalised(tower: tuple[nn.Module, TextSettings]) -> None:
    """As in KD-DLGAN's code; the mean over several prompts."""
    model, settings = tower
    prompts = ["a {}", "{}, blurred"]
    raw = settings.model_copy(update={"prompts": prompts, "normalize": False})
    rows = class_embeddings(raw, teacher(), ["cat", "dog"])
    for row, name in zip(rows, ["cat", "dog"], strict=True):
        tokens = open_clip.tokenize([prompt.format(name) for prompt in prompts])
        with torch.no_grad():
            torch.testing.assert_close(row, model.encode_text(tokens).mean(0))
    assert (rows.norm(dim=1) - 1).abs().min() > 0.01


def test_given_names_take_precedence_over_those_of_the_data(
    tower: tuple[nn.Module, TextSettings],
) -> None:
    _, settings = tower
    named = settings.model_copy(update={"names": ["cat", "dog", "ship"]})
    rows = class_embeddings(named, teacher(), [""])
    assert rows.shape == (3, 6)
    torch.testing.assert_close(rows[1:2], class_embeddings(settings, teacher(), ["dog"]))
    with pytest.raises(SettingsError, match=r"distill\.text\.names: needed"):
        class_embeddings(settings, teacher(), [""])


def test_classifier_rows_are_used_without_a_text_tower() -> None:
    rows = torch.randn(4, 6)
    found = class_embeddings(None, teacher(rows), ["a", "b"])
    torch.testing.assert_close(found, F.normalize(rows, dim=1))
    with pytest.raises(SettingsError, match=r"no classifier .* set distill\.text to a text tower"):
        class_embeddings(None, teacher(), ["a", "b"])


def test_missing_towers_and_weights_are_refused(
    tower: tuple[nn.Module, TextSettings], tmp_path: Path
) -> None:
    _, settings = tower
    garbage = tmp_path / "garbage.pt"
    garbage.write_bytes(b"garbage")
    for change, message in (
        ({"model": "ViT-B-33"}, "open_clip has no such model"),
        ({"weights": str(tmp_path / "missing.pt")}, "no such file or published tag"),
        ({"weights": str(garbage)}, "cannot be loaded"),
    ):
        with pytest.raises(VkdError, match=message) as caught:
            class_embeddings(settings.model_copy(update=change), teacher(), ["cat"])
        assert len(str(caught.value).splitlines()) == 1
