"""The settings of classification runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from classification.recognition.settings import load_settings
from gan_vkd.runtime.errors import SettingsError
from tests.classification.conftest import CONFIGS

TEACHERS = {"regnety160", "resnet56"}
OBJECTIVES = sorted(
    {file.stem for file in (CONFIGS / "objectives").glob("*.yaml")} - TEACHERS
    - {"vidt_vkd", "vidt_token_matching"}
)  # fmt: skip
SMALL, LARGE = "cifar10_vit+objectives/resnet56", "imagenet_deit_ti+objectives/regnety160"
TAUGHT = [f"{base}+objectives/{name}" for base in (SMALL, LARGE) for name in OBJECTIVES]
EXPERIMENTS = [
    file.stem for kind in ("cifar10_vit", "imagenet", "vit") for file in CONFIGS.glob(f"{kind}*")
]


@pytest.mark.parametrize("name", [*sorted(EXPERIMENTS), *TAUGHT])
def test_every_config_loads_and_is_restored_from_its_dump(name: str, tmp_path: Path) -> None:
    settings = load_settings(CONFIGS / name)
    (tmp_path / "settings.yaml").write_text(settings.dump())
    assert load_settings(tmp_path) == settings


def test_a_student_refuses_options_that_name_files(tmp_path: Path) -> None:
    """timm would read checkpoint_path, by versions before 1.0.31 as a pickle."""
    for option, hint in (("checkpoint_path", "known here: img_size"), ("img_sise", "img_size?")):
        with pytest.raises(SettingsError) as caught:
            load_settings(CONFIGS / "vit_folder.yaml", [f"student.options.{option}=x"])
        (line,) = [line for line in str(caught.value).splitlines() if "student" in line]
        assert f"student.options.{option}: unknown key; " in line
        assert hint in line


@pytest.mark.parametrize("name", ["cifar10_vit_vkd", f"{SMALL}+objectives/hard"])
def test_the_taught_student_of_small_images_is_the_plain_one_with_a_token(name: str) -> None:
    """A student of another name replaces that of the base, so that its options are repeated."""
    plain, taught = load_settings(CONFIGS / "cifar10_vit").student, load_settings(CONFIGS / name)
    assert taught.student.name == plain.name.replace("tiny_", "tiny_distilled_")
    assert (taught.student.options, taught.student.drop_path) == (plain.options, plain.drop_path)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_arm_is_named_after_the_objective(name: str) -> None:
    assert load_settings(CONFIGS / f"{SMALL}+objectives/{name}").arm == name


def test_the_published_settings_of_deit() -> None:
    for name, names in (("tiny", []), ("small", ["student.name=deit_small_patch16_224"])):
        settings = load_settings(CONFIGS / "imagenet_deit_ti", names)
        assert settings.student.name == f"deit_{name}_patch16_224"
        train, augment = settings.train, settings.augment
        assert (train.epochs, train.batch_size, settings.lr) == (300, 1024, 1e-3)
        assert (train.warmup_epochs, train.warmup_lr, train.min_lr) == (5, 1e-6, 1e-5)
        assert (train.weight_decay, train.ema_decay) == (0.05, 0)  # its EMA is not evaluated
        assert (augment.mixup, augment.cutmix, augment.smoothing) == (0.8, 1, 0.1)
        assert (augment.erasing, augment.repeats, settings.student.drop_path) == (0.25, 3, 0.1)
        assert augment.policy == "rand-m9-mstd0.5-inc1"


def test_the_settings_of_vkds_released_code() -> None:
    small = ["student.name=deit_small_distilled_patch16_224"]
    for name, names in (("tiny", []), ("small", small)):
        settings = load_settings(CONFIGS / "imagenet_deit_ti_vkd", names)
        student, train, augment = settings.student, settings.train, settings.augment
        assert student.name == f"deit_{name}_distilled_patch16_224"
        assert (student.stem, student.drop_path) == ("conv", 0)
        teachers = [network.name for network in settings.teachers.values()]
        assert teachers == ["timm/regnety_160.deit_in1k"]
        assert (train.epochs, train.batch_size, settings.lr) == (300, 512, 5e-4)
        assert (train.schedule, train.warmup_epochs, train.min_lr) == ("updates", 0, 5e-6)
        assert (train.weight_decay, train.ema_decay) == (0.05, 0)
        assert train.projection_weight_decay == 0.05
        assert (augment.mixup, augment.cutmix, augment.smoothing) == (0.8, 1, 0.1)
        assert (augment.policy, augment.color_jitter) == ("3a", 0.3)
        assert (augment.erasing, augment.repeats) == (0, 1)
        token, features = settings.objective.token, settings.objective.features
        assert token is not None
        assert features is not None
        assert (settings.objective.label, token.weight, features.weight) == (1, 1, 1)
        assert (token.kind, token.temperature) == ("soft", 1)
        method = features.method.chosen
        assert method["projection"]["name"] == "orthogonal"
        assert method["normalization"] == {"name": "layer_norm"}
        assert (features.tokens, method["distance"]) == ("patches", "smooth_l1")


@pytest.mark.parametrize(
    ("name", "overrides", "fault"),
    [
        ("cifar10_vit", ["train.batch_sise=3"], "did you mean train.batch_size"),
        ("cifar10_vit", ["objective.token={kind: soft}"], "its terms need a teacher"),
        ("cifar10_vit_vkd", ["objective={}"], "no term of the objective uses them"),
        ("cifar10_vit_vkd", ["objective=null"], "objective"),
        ("cifar10_vit", ["data.resolution=224"], "holds images of 32 or 64 pixels, not 224"),
        ("cifar10_vit", ["data.num_images=100"], "give fraction or num_images, not both"),
        ("cifar10_vit", ["data.kind=files"], "heldout = test belongs to source = cifar10"),
        ("cifar10_vit", ["data.source=images"], "heldout = test belongs to source = cifar10"),
        ("cifar10_vit", ["data.classes=7"], "classes belongs to kind = shards"),
        ("cifar10_vit", ["augment.scale=[0.5, 1]"], "scale belongs to crop = resized"),
        ("cifar10_vit", ["evaluate.crop=0.9"], "evaluate.crop belongs to data.kind = files"),
        ("imagenet_deit_ti", ["augment.crop=padded"], "augment.crop = padded is for small images"),
        (f"{SMALL}+objectives/hard", ["objective.token.temperature=2"],
         "temperature belongs to kind = soft"),
        (f"{SMALL}+objectives/dearkd", ["objective.early.teacher.pool=sum"],
         "a map is matched unpooled"),
        ("cifar10_vit", ["data.kind=shards"], "set num_images and classes"),
        ("imagenet_deit_ti_vkd_shards", ["augment.repeats=3"], "set augment.repeats = 1"),
        ("imagenet_deit_ti", ["data.num_images=10"], "belong to kind = memory"),
        ("cifar10_vit_vkd", ["objective.features.method={name: spkd, projection: mlp}"],
         "objective.features.method.projection: unknown key"),
        ("cifar10_vit_vkd", ["objective.features.method=kd_dlgm"], "kd_dlgm is for GANs"),
        ("cifar10_vit_vkd", ["objective.features.method.normalization={name: standardize, "
         "statistics: training_set}"], "training_set is for GANs"),
    ],
)  # fmt: skip
def test_contradicting_settings_are_a_one_line_error(
    name: str, overrides: list[str], fault: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(CONFIGS / name, overrides)
    assert fault in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("module", ["classification", "classification.detection"])
def test_help_does_not_import_torch(module: str) -> None:
    code = (
        f"import sys\nfrom {module}.cli import main\nsys.argv = ['x', '--help']\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        "heavy = {'torch', 'numpy', 'timm', 'PIL', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
