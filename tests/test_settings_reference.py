"""The settings pages have every key, with a type and a meaning."""

import re
from pathlib import Path
from typing import Any

import pytest

import classification.detection.settings
import classification.recognition.settings
import gan_vkd.game.settings
from docs.hooks.settings_reference import pages
from gan_vkd.runtime.registry import Registry
from gan_vkd.runtime.settings_file import load_as
from gan_vkd.teachers.teach import TeachSettings

PAGES = pages()
ROWS = [
    (file, *row)
    for file, text in PAGES.items()
    for row in re.findall(r"^\| `(.*?)` \| (.*) \| (.*) \| (.*) \|$", text, re.MULTILINE)
]
KEYS = {file: {row[1] for row in ROWS if row[0] == file} for file in PAGES}
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def test_every_key_has_a_type_and_a_meaning() -> None:
    assert len(ROWS) > 300
    assert not [row for row in ROWS if not (row[2] and row[4])]


def _keys(tree: dict[str, Any], prefix: str = "") -> set[str]:
    """The keys of dumped settings, as the pages write them."""
    keys = set()
    for name, value in tree.items():
        inner = value[0] if isinstance(value, list) and value else value
        listed = ".0" if inner is not value else ""
        if name != "name":  # of a component: the value of the key above
            keys.add(f"{prefix}{name}")
        if isinstance(inner, dict):
            keys |= _keys(inner, f"{prefix}{name}{listed}.")
    return keys


@pytest.mark.parametrize(
    ("file", "load", "config", "overrides"),
    [
        ("gan", gan_vkd.game.settings.load_settings, "folder+networks/stylegan2+methods/whitening",
         ["data.source=x", "distill.text={}", "distill.method=kd_dlgm", "evaluate.also=[{name: x}]",
          "augment=[ada]"]),
        ("gan", gan_vkd.game.settings.load_settings, "cifar10_10pct+methods/swin_layers", []),
        ("recognition", classification.recognition.settings.load_settings,
         "cifar10_vit_vkd+objectives/resnet56", []),
        ("detection", classification.detection.settings.load_settings,
         "coco_vidt_nano+objectives/vidt_vkd", ["data.root=x", "teacher.weights=x"]),
        ("teach", lambda file, overrides: load_as(TeachSettings, file, overrides),
         "quickstart_teacher", []),
    ],
)  # fmt: skip
def test_all_keys_of_a_run_are_listed(
    file: str, load: Any, config: str, overrides: list[str]
) -> None:
    used = _keys(load(CONFIGS / config, overrides).model_dump(mode="json"))
    used = {re.sub(r"^teachers\.\w+", "teachers.NAME", key) for key in used} - {"teachers.NAME"}
    elsewhere = re.compile(r"student\.options\..*|train\.ema_decay\..*")  # timm's; HalfLife
    assert not {key for key in used - KEYS[f"settings/{file}.md"] if not elsewhere.fullmatch(key)}


@pytest.mark.parametrize("kind", ["METHODS", "NETWORKS", "AUGMENTATIONS", "ADVERSARIES"])
def test_all_components_are_listed(kind: str) -> None:
    registry: Registry[Any] = getattr(gan_vkd.game.settings, kind)
    for name in registry:
        assert re.search(rf"^- `{name}`: .", PAGES["settings/gan.md"], re.MULTILINE)
