"""Settings are inherited, overridden and validated, and messages name the key."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gan_vkd.distill import METHODS
from gan_vkd.game.settings import DistillSettings, Settings, load_settings
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.settings_file import differences, load_as
from gan_vkd.teachers.teach import TeachSettings
from tests.conftest import config_of

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
MINIMAL = "arm: none\ndata: {source: digits}\n"


def write(folder: Path, name: str = "run.yaml", text: str = MINIMAL) -> Path:
    (folder / name).write_text(text)
    return folder / name


def fault(path: Path, *overrides: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(path, list(overrides))
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


# the shipped files


ARMS = [
    file.stem
    for file in sorted((CONFIGS / "methods").glob("*.yaml"))
    if yaml.safe_load(file.read_text()).get("arm") == file.stem
]
TABLE = [arm for arm in ARMS if arm not in ("rkd", "vicreg")]
SMALL = "cifar10_10pct+sizes/cpu"
OTHERS = ("cifar10_vit", "imagenet", "vit", "coco", "finetune", "grocery", "quickstart_teacher")
RUNS = [
    *(file.stem for file in CONFIGS.glob("*.yaml") if not file.stem.startswith(OTHERS)),
    *(SMALL, "cifar100_10pct+sizes/cpu"),
    *(f"recipe/{file.stem}" for file in (CONFIGS / "recipe").glob("*.yaml")),
    *(f"{experiment}+regularizers/{file.stem}" for experiment in ("cifar10_10pct", SMALL)
      for file in (CONFIGS / "regularizers").glob("*.yaml")),
    *(f"cifar10_10pct+methods/{arm}" for arm in ARMS),
    *(f"{SMALL}+methods/{arm}+methods/resnet" for arm in ARMS),
    "cifar100_10pct+methods/kd_dlgm_cifar100", "cifar10_10pct+methods/whitening+methods/cholesky",
    *(f"folder+methods/whitening+methods/{part}" for part in ("dino_tokens", "swin_layers")),
]  # fmt: skip
RUNS = sorted({*RUNS} - {"recipe/teacher"})


@pytest.mark.parametrize("name", [*RUNS, "quickstart_teacher"])
def test_every_config_loads_and_is_restored_from_its_dump(name, tmp_path):
    schema = TeachSettings if name == "quickstart_teacher" else Settings
    settings = load_as(schema, CONFIGS / name)
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    assert load_as(schema, tmp_path) == settings


def test_every_method_and_regulariser_has_an_arm_of_its_name():
    assert {*ARMS} >= {*METHODS} - {"vkd"} | {"layernorm", "whitening"}
    for file in (CONFIGS / "regularizers").glob("*.yaml"):
        assert load_settings(CONFIGS / f"cifar10_10pct+regularizers/{file.stem}").arm == file.stem


@pytest.mark.parametrize(
    ("arm", "option", "message"),
    [
        ("spkd", "method.projection=linear", "method.projection: unknown key; known here: name"),
        ("spkd", "method.normalization=l2", "method.normalization: unknown key; known here: name"),
        ("whitening", "method.spectral=false", "method.spectral: unknown key"),
        ("whitening", "method.form=code", "method.form: unknown key"),
        ("whitening", "text.weights=x", "text belongs to methods with texts, which vkd is not"),
    ],
)
def test_an_option_of_another_method_is_refused(arm: str, option: str, message: str) -> None:
    assert message in fault(config_of(SMALL, arm), f"distill.{option}")


def whitening(**options: Any) -> list[str]:
    """Returns an override of the normalisation: whitening with these options."""
    chosen = yaml.safe_dump({"name": "whitening", **options}, default_flow_style=True)
    return [f"distill.method.normalization={chosen.strip()}"]


AGREEMENT = whitening(statistics="training_set", directions="agreement")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["distill.method.normalization={name: l2, eps: 7}"], "eps: unknown key"),
        (["distill.method.normalization={name: phi_s, groups: 7}"], "groups: unknown key"),
        (["distill.method.normalization={name: l2, statistics: batch}"], "statistics: unknown key"),
        (whitening(agreement=0.3), "agreement belongs to directions = agreement"),
        (whitening(directions="agreement"), "needs statistics = training_set"),
        (whitening(kind="cholesky", directions=4), "null for cholesky: it has no"),
        ([*AGREEMENT, "augment=[]"], "compares augmented views: set augment"),
        (whitening(shrinkage="oas", momentum=0.1), "oas uses the sample count"),
        (whitening(directions=1.0), r"a share of the variance must be in \(0, 1\), got 1.0"),
        (whitening(shrinkage=2), r"shrinkage must be auto or in \[0, 1\], got 2.0"),
        (whitening(eps=-1), r"momentum must be in \[0, 1\] and eps >= 0, got 0.0, -1.0"),
        (whitening(every=0), "every and groups must be positive, got 0, 1"),
        (whitening(directions=0), "directions must be 1 or more, got 0"),
        (whitening(directions=True), "expected a whole number, a number, agreement or null"),
        (whitening(directions="all"), "expected a whole number, a number, agreement or null"),
        (["evaluate.features={name: inception, size: 64}"], "inception accepts only name"),
        (["evaluate.features={name: inception, layer: foo}"], "inception accepts only name"),
        (["evaluate.also=[{name: inception, size: 64}]"], "also: inception accepts only name"),
    ],
)
def test_options_without_effect_are_refused(change: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as error:
        load_settings(config_of(SMALL, "whitening"), change)
    assert len(str(error.value).splitlines()) == 1


def test_the_aggregated_term_combines_with_other_methods_on_all_images() -> None:
    config, weight = config_of(SMALL, "whitening"), "distill.aggregated=10"
    distill = load_settings(config, [weight]).distill
    assert distill is not None
    assert distill.aggregated == 10
    assert "kd_dlgm has a head and this term" in fault(config_of(SMALL, "kd_dlgm"), weight)
    assert "aggregated compares real with fake" in fault(config, weight, "distill.images=real")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_made_with_its_options(method: str) -> None:
    tree = {"teacher": {"name": "cifar_resnet56"}, "method": method}
    settings = DistillSettings.model_validate(tree)
    text = [torch.ones(2, 6)] if settings.takes_text else []
    METHODS.make(settings.method.chosen, 4, 6, *text)


def test_options_are_passed_to_their_method() -> None:
    for arm, changes, options in (
        ("pkd", ["distill.method.form=paper"], {"form": "paper"}),
        ("pkd", [], {"form": "code"}),
        ("kd_dlgm", [], {"spectral": True}),
        ("kd_dlgm", ["distill.method.spectral=false"], {"spectral": False}),
    ):
        distill = load_settings(config_of("cifar10_10pct", arm), changes).distill
        assert distill is not None
        assert distill.method.chosen == {"name": arm} | options


@pytest.mark.parametrize("name", RUNS)
def test_teachers_get_images_as_published_in_published_arms_only(name: str) -> None:
    distill = load_settings(CONFIGS / name).distill
    if distill is not None:
        published = "clip" in distill.teacher.name and name.startswith("cifar")
        view = (distill.teacher.enlarge, distill.teacher.normalize)
        assert view == (("nearest", False) if published else ("bicubic", True))


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
@pytest.mark.parametrize(
    ("size", "fraction"), [("", 0.1), ("+sizes/cpu", 0.1), ("+data.fraction=0.2", 0.2),
                           ("+data.fraction=null+train.iterations=250000", None)],
)  # fmt: skip
def test_arms_of_an_experiment_differ_in_the_distillation_only(data, size, fraction):
    base = load_settings(CONFIGS / f"{data}_10pct{size}")
    assert base.distill is None
    assert base.data.source == data
    assert base.data.fraction == fraction
    arms = {}
    for arm in ARMS if fraction == 0.1 else TABLE:
        settings = load_settings(config_of(f"{data}_10pct{size}", arm))
        assert base.model_copy(update={"arm": arm, "distill": settings.distill}) == settings
        arms[arm] = settings.distill
    for arm, distill in arms.items():
        assert distill is not None
        expected = "vkd" if arm in ("layernorm", "whitening") else arm
        assert distill.method.name == expected
        assert distill.teacher == arms["whitening"].teacher
        assert distill.weight == arms["whitening"].weight
        assert (distill.text is not None) == (arm == "kd_dlgm" and "cpu" not in size)


def test_settings_are_restored_from_their_dump(tmp_path):
    settings = load_settings(
        config_of("cifar10_10pct", "whitening"), ["train.g_lr=1.2345678901234567e-7", "seed=3"]
    )
    write(tmp_path, "settings.yaml", settings.dump())
    assert load_settings(tmp_path) == settings


# overrides


def test_overrides_are_yaml_at_a_path(tmp_path):
    settings = load_settings(
        write(tmp_path),
        [
            "train.betas=[0.5, 0.9]",
            "augment=[color]",
            "data.heldout=null",
            "data.flip=false",
            "arm=a=b",
            "train.g_lr=2e-4",
            "distill.teacher.name=classifier",
            "distill.method.normalization.eps=0.5",
            "evaluate.features={name: cifar_resnet20, layer: layer3}",
            "seed=1",
            "seed=2",
        ],
    )
    assert settings.train.betas == (0.5, 0.9)
    assert [part.name for part in settings.augment] == ["color"]
    assert settings.data.heldout is None
    assert settings.data.flip is False
    assert settings.arm == "a=b"
    assert settings.train.g_lr == 2e-4
    assert settings.distill is not None
    assert settings.distill.teacher.name == "classifier"
    assert settings.distill.method.chosen["normalization"]["eps"] == 0.5
    assert settings.evaluate.features.layer == "layer3"
    assert settings.seed == 2


def test_an_override_may_set_a_section_to_null(tmp_path):
    path = write(tmp_path, text=MINIMAL + "distill: {teacher: {name: discriminator}}\n")
    assert load_settings(path, ["distill=null"]).distill is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/data/My Photos #2", "/data/My Photos #2"),
        ("/data/a: b", "/data/a: b"),
        ("'it''s #1'", "it's #1"),
        ('"a: b"', "a: b"),
        (" /data/x ", "/data/x"),
        ("*.png", None),
    ],
)
def test_an_override_may_be_a_path_with_special_characters(text, value, tmp_path):
    if value is None:
        assert "not YAML" in fault(write(tmp_path), f"data.source={text}")
    else:
        assert load_settings(write(tmp_path), [f"data.source={text}"]).data.source == value


@pytest.mark.parametrize("item", ["seed", "=3", ".seed=3", "train..d_lr=1", ""])
def test_overrides_without_an_assignment_are_refused(item, tmp_path):
    assert "expected key.sub=value" in fault(write(tmp_path), item)


@pytest.mark.parametrize("item", ["augment=[color", "seed={", "arm=!!python/name:os.system x"])
def test_overrides_with_invalid_yaml_are_refused(item, tmp_path):
    assert "not YAML" in fault(write(tmp_path), item)


@pytest.mark.parametrize("levels", [9, 30])
def test_aliases_that_expand_to_too_many_values_are_refused(tmp_path, levels):
    """A file of a few lines that expands to 10^levels values."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    bomb = "\n".join(lines) + "\n"
    assert "more than 10000 values" in fault(write(tmp_path, text=bomb + MINIMAL))
    assert "more than 10000 values" in fault(write(tmp_path, text="a: &a [*a]\n" + MINIMAL))


def test_long_values_are_shortened_in_messages(tmp_path):
    text = fault(write(tmp_path, text=MINIMAL + f"seed: {'x' * 10_000}\n"))
    assert len(text) < len(str(tmp_path)) + 250


def test_an_override_may_address_a_list_item(tmp_path):
    judges = "evaluate: {also: [{name: cifar_resnet20}, {name: discriminator}]}\n"
    path = write(tmp_path, text=MINIMAL + judges + "augment: [color, cutout]\n")
    changes = ["evaluate.also.1.weights=/a: b", "evaluate.also.0={name: classifier}"]
    settings = load_settings(path, [*changes, "augment.1=translation"])
    assert [(n.name, n.weights) for n in settings.evaluate.also] == [
        ("classifier", None), ("discriminator", "/a: b"),
    ]  # fmt: skip
    assert [part.name for part in settings.augment] == ["color", "translation"]
    assert len(load_settings(path, ["evaluate.also=[]"]).evaluate.also) == 0


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("augment.2=color", "2 is not an index of the list; expected 0 to 1"),
        ("augment.-1=color", "-1 is not an index of the list"),
        ("augment.first=color", "first is not an index of the list"),
        ("train.betas.0=1", "0 is not an index of the list; it is empty"),
        ("evaluate.also.0.weights=x", "0 is an index of a list, but no list is set there"),
    ],
)
def test_overrides_of_missing_list_items_are_refused(item, expected, tmp_path):
    lists = "augment: [color, cutout]\ntrain: {betas: []}\n"
    assert f"{item!r}: {expected}" in fault(write(tmp_path, text=MINIMAL + lists), item)


# faults


@pytest.mark.parametrize(
    ("item", "meant"),
    [
        ("sede=1", "did you mean seed?"),
        ("train.iteratons=1", "did you mean train.iterations?"),
        ("distill.teacher.wieghts=x", "did you mean distill.teacher.weights?"),
        ("distill.method.normalization.epss=1", "did you mean distill.method.normalization.eps?"),
        ("distill.pairs=[{studnet: {}}]", "did you mean distill.pairs.0.student?"),
        (
            "distill.pairs=[{}, {teacher: {leyer: x}}]",
            "did you mean distill.pairs.1.teacher.layer?",
        ),
        ("data.zzz=1", "known here: source, root,"),
        ("base=other.yaml", "unknown key"),
    ],
)
def test_an_unknown_key_is_named_with_a_suggestion(item, meant, tmp_path):
    path = write(tmp_path, text=MINIMAL + "distill: {teacher: {name: classifier}}\n")
    message = fault(path, item)
    assert item.split("=")[0] in message
    assert ": unknown key" in message
    assert meant in message


@pytest.mark.parametrize(
    "item",
    [
        "train.iterations=many",
        "train.iterations=1.5",
        "train.iterations=0",
        "train.batch_size=-1",
        "train.g_lr=0",
        "train.g_lr=.nan",
        "train.d_lr=.inf",
        "train.betas=[0.5]",
        "train.betas=[0.5, 1.0]",
        "train.ema_decay=1.01",
        "train=3",
        "data.resolution=50",
        "data.resolution=[48, 50]",
        "data.resolution=[32]",
        "data.channels=2",
        "data.background=red",
        "data.white=0",
        "data.fraction=0",
        "data.fraction=1.1",
        "data.num_images=0",
        "data.flip=perhaps",
        "data.damaged=ignore",
        "data.source=[1]",
        "augment=[color, colour]",
        "augment=color",
        "model.ch=0",
        "evaluate.num_samples=1",
        "evaluate.seed=-1",
        "seed=4294967296",
        "arm=null",
        "distill.teacher.name=null",
        "distill.weight=0",
        "distill.weight=.inf",
        "distill.weight=much",
        "distill.method.normalization.shrinkage=much",
        "distill.images=none",
        "distill.pairs=[]",
        "distill.pairs=[{weight: 0}]",
        "distill.method={name: fitnets, projection: linear}",
    ],
)
def test_an_invalid_value_is_named_with_its_key(item, tmp_path):
    path = write(tmp_path, text=MINIMAL + "distill: {teacher: {name: classifier}}\n")
    assert f"{path}: {item.split('=')[0]}" in fault(path, item)


def test_contradicting_options_are_reported_without_the_whole_section(tmp_path):
    path = write(tmp_path, text=MINIMAL + "distill: {teacher: {name: classifier}}\n")
    message = fault(path, "distill={teacher: {name: x}, method: kd_dlgm, images: real}")
    expected = "distill: kd_dlgm compares real with fake images: set images = both"
    assert message == f"{path}: {expected}"


def test_a_missing_key_is_named(tmp_path):
    assert "arm: missing" in fault(write(tmp_path, text="data: {source: digits}"))
    assert "data.source: missing" in fault(write(tmp_path, text="arm: x\ndata: {}"))


def test_every_fault_has_its_own_line(tmp_path):
    with pytest.raises(SettingsError) as caught:
        load_settings(write(tmp_path), ["sede=1", "model.ch=0", "train.g_lr=x"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(any(key in line for line in lines) for key in ("sede", "model.ch", "train.g_lr"))


def test_fraction_and_count_together_are_refused(tmp_path):
    message = fault(write(tmp_path), "data.fraction=0.5", "data.num_images=10")
    assert "fraction or num_images, not both" in message


# differences


def test_differences_are_the_changed_keys_with_both_values(tmp_path):
    path = write(tmp_path)
    old, new = (
        load_settings(path, ["seed=1"]),
        load_settings(path, ["train.g_lr=0.5", "augment=[]"]),
    )
    assert differences(old, old) == []
    translation = {"name": "translation", "ratio": 0.125, "p": 1.0}
    cutout = {"name": "cutout", "ratio": 0.5, "p": 1.0}
    assert differences(old, new) == [
        f"augment: {[translation, cutout]} -> []",
        "seed: 1 -> 0",
        "train.g_lr: 0.0002 -> 0.5",
    ]


def test_an_added_section_is_a_difference(tmp_path):
    path = write(tmp_path)
    without, with_it = load_settings(path), load_settings(path, ["distill.teacher.name=classifier"])
    keys = {line.split(":")[0] for line in differences(without, with_it)}
    assert "distill.teacher.name" in keys
    assert all(key.startswith("distill") for key in keys)
    assert len(differences(with_it, without)) == len(differences(without, with_it))
