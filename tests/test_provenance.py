"""Whether a teacher was trained on the judge's training images, and that tables say so."""

import shutil
from pathlib import Path

import pytest

from gan_vkd.report import compare as compare_module
from gan_vkd.report.compare import compare
from gan_vkd.report.provenance import relation, trained_on
from gan_vkd.run import Run
from gan_vkd.runtime.checkpoint import load_state, save_state
from gan_vkd.teachers.settings import NetworkSettings
from gan_vkd.training import train
from tests.conftest import MakeSettings, Trained
from tests.real_data import SHARED, needs_shared


def network(name: str, weights: str | None = None) -> NetworkSettings:
    return NetworkSettings(name=name, weights=weights)


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("inception", {"ImageNet-1k"}),
        ("inception_legacy_tensorflow", {"ImageNet-1k"}),
        ("cifar_resnet56", {"CIFAR-10"}),
        ("timm/vit_base_patch32_clip_quickgelu_224.openai", {"OpenAI's image-text pairs"}),
        ("timm/regnety_160.deit_in1k", {"ImageNet-1k"}),
        ("timm/vit_base_patch16_224.dino", {"ImageNet-1k"}),
        ("timm/vit_base_patch16_clip_224.laion2b_ft_in12k_in1k",
         {"LAION", "ImageNet-21k", "ImageNet-1k"}),
        ("timm/resnet50", None),
        ("timm/resnet50.something", None),
        ("discriminator", None),
        ("classifier", None),
    ],
)  # fmt: skip
def test_training_sets_of_published_weights(name: str, sets: set[str] | None) -> None:
    assert trained_on(network(name)) == sets


def test_a_taught_classifier_names_its_training_set(classifier: Path, tmp_path: Path) -> None:
    assert trained_on(network("classifier", str(classifier))) == {"digits"}
    assert trained_on(network("classifier", str(tmp_path / "gone"))) is None
    (tmp_path / "broken").write_bytes(b"no")
    assert trained_on(network("classifier", str(tmp_path / "broken"))) is None


def test_local_weights_are_recognised_by_digest_only(tmp_path: Path) -> None:
    fake = tmp_path / "resnet20-12fca82f.th"
    fake.write_bytes(b"weights of somebody")
    assert trained_on(network("cifar_resnet20", str(fake))) is None
    assert trained_on(network("cifar_resnet20", str(tmp_path / "gone"))) is None
    assert trained_on(network("timm/resnet50.a1_in1k", str(fake))) is None


@needs_shared
def test_published_weights_are_recognised_under_any_name(tmp_path: Path) -> None:
    real = SHARED / "weights" / "cifar_resnet" / "resnet20-12fca82f.th"
    (tmp_path / "mine.th").write_bytes(real.read_bytes())
    assert trained_on(network("cifar_resnet20", str(tmp_path / "mine.th"))) == {"CIFAR-10"}
    assert trained_on(network("cifar_resnet56", str(tmp_path / "mine.th"))) is None


@pytest.mark.parametrize("source", ["cifar10", "/some/folder"])
def test_a_classifier_taught_on_a_folder_has_an_unknown_training_set(
    source: str, classifier: Path, tmp_path: Path
) -> None:
    state = load_state(classifier)
    state["settings"]["data"]["source"] = source
    save_state(tmp_path / "c.safetensors", state)
    taught = network("classifier", str(tmp_path / "c.safetensors"))
    clauses = relation(taught, [network("cifar_resnet20")])
    assert ("has seen the judge's training images (CIFAR-10)" in clauses) == (source == "cifar10")
    assert ("not known" in clauses) == (source != "cifar10")


@pytest.mark.parametrize(
    ("teacher", "judge", "clause"),
    [
        ("inception", "inception", "is the judge itself"),
        ("cifar_resnet56", "cifar_resnet20", "has seen the judge's training images (CIFAR-10)"),
        ("timm/x.in22k_ft_in1k", "inception", "has seen the judge's training images (ImageNet-1k)"),
        ("timm/x.openai", "inception", "(OpenAI's image-text pairs) has not seen the judge's "
         "training images (ImageNet-1k)"),
        ("timm/x", "inception", "not known whether"),
    ],
)  # fmt: skip
def test_the_relation_is_one_clause(teacher: str, judge: str, clause: str) -> None:
    clauses = relation(network(teacher), [network(judge)])
    assert clauses.startswith(f"teacher {teacher}")
    assert clause in clauses


LITE0, LITE2 = "timm/tf_efficientnet_lite0", "timm/tf_efficientnet_lite2.in1k"


def test_teachers_of_the_judges_family_are_reported() -> None:
    clauses = relation(network(LITE0, "somewhere"), [network(LITE2)])
    assert clauses == (
        f"teacher {LITE0} is of the judge's family; "
        "no judge is of another family than this teacher: add one (evaluate.also)"
    )
    seen = relation(network("cifar_resnet56"), [network("cifar_resnet20")])
    assert "is of the judge's family and has seen the judge's training images (CIFAR-10)" in seen
    assert "family" not in relation(network("timm/resnet50"), [network(LITE2)])


def test_every_judge_has_its_clause() -> None:
    clauses = relation(network("cifar_resnet20"), [network("cifar_resnet56"), network(LITE2)])
    assert clauses == (
        "teacher cifar_resnet20 is of judge cifar_resnet56's family and has seen judge "
        "cifar_resnet56's training images (CIFAR-10); teacher cifar_resnet20 (CIFAR-10) has not "
        f"seen judge {LITE2}'s training images (ImageNet-1k)"
    )
    kin = [network("cifar_resnet56"), network("cifar_resnet20")]
    assert "; teacher cifar_resnet20 is judge cifar_resnet20 itself; no judge is of another" in (
        relation(network("cifar_resnet20"), kin)
    )


def test_captions_name_the_relation_and_each_judge_gets_a_table(
    small: MakeSettings, trained: Trained, classifier: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(classifier.read_bytes())
    train(small(f"distill.teacher.weights={copy}"), tmp_path / "b")
    caption = compare([trained(arm="none"), tmp_path / "b"], tmp_path / "out").splitlines()[0]
    assert caption.endswith("; teacher classifier has seen the judge's training images (digits)")
    assert "; judge " not in caption

    layer = "evaluate.features.layer=layer2"  # another judge of the same name
    train(small(layer, "seed=1", arm="none"), tmp_path / "c")
    text = compare([trained(arm="none"), tmp_path / "b", tmp_path / "c"], tmp_path / "out")
    assert text.count("| arm") == 2
    assert text.count("; judge ") == 2


def test_a_table_says_which_runs_started_from_other_weights(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_module, "_picture", lambda runs, path: None)
    folders = [trained(arm="none")]
    settings, source = Run(folders[0]).settings(), "runs/a\x1b[2J"
    for seed, frozen in ((1, 0), (2, 3), (3, 0)):
        section = settings.train.model_copy(update={"freeze_d": frozen})
        changed = {"arm": "tuned", "seed": seed, "init_from": source, "train": section}
        folders.append(tmp_path / str(seed))
        shutil.copytree(folders[0], folders[-1])
        Run(folders[-1]).write_settings(settings.model_copy(update=changed).dump())
    lines = compare(folders, tmp_path / "out").splitlines()
    start = r"started from runs/a\x1b[2J"
    assert [line for line in lines if "started" in line] == [
        f"tuned, seed 1 3: {start}",
        f"tuned, seed 2: {start}, the 3 lowest layers of the discriminator not trained "
        "(train.freeze_d)",
    ]
    assert "started" not in compare(folders[:1], tmp_path / "out")
