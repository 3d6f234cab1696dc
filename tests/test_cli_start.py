"""How the programs start: help, missing files, version and completion, without importing torch."""

import pytest

from gan_vkd import __version__
from tests.processes import process
from tests.test_cli import NO_DATA, NO_RUN, SMALL


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["sample", "--help"]])
def test_help_does_not_import_torch(arguments):
    code = (
        "import sys\nfrom gan_vkd.cli import main\n"
        f"sys.argv = ['vkd', *{arguments}]\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        "heavy = {'torch', 'numpy', 'timm', 'PIL', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = process("-c", code)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


PROGRAMS = {
    "vkd": "gan_vkd", "vkd-classify": "classification", "vkd-detect": "classification.detection",
}  # fmt: skip
NO_FILE = "no such file or folder"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("vkd train nowhere.yaml", "no such settings file"),
        ("vkd sample no/where --out x", NO_RUN),
        *((f"{program} compare no/where --out x", NO_RUN) for program in PROGRAMS),
        *((f"{program} evaluate no/where", NO_RUN) for program in PROGRAMS),
        *((f"{program} export no/where x.pth", NO_RUN) for program in PROGRAMS),
        ("vkd-classify features no/where --out x", NO_RUN),
        ("vkd-detect predict no/where x.png --out x", NO_FILE),
        ("vkd import no/where.pth quickstart", NO_FILE),
        ("vkd teach quickstart_teacher data.source=no/where", NO_DATA),
        ("vkd train quickstart data.source=no/where", NO_DATA),
        ("vkd train quickstart data.heldout=no/where", NO_DATA),
        ("vkd train cifar10_10pct data.root=no/where data.download=false", NO_DATA),
        ("vkd train stored.yaml", "data.source = no/where: no such folder or file"),
        ("vkd-classify train imagenet_deit_ti data.source=no/where", NO_DATA),
        ("vkd-detect train coco_vidt_nano data.root=no/where", NO_DATA),
    ],
)
def test_missing_files_are_reported_before_torch_is_imported(line, fault, tmp_path):
    """As a process: one line, an exit code, and torch is not imported."""
    (tmp_path / "stored.yaml").write_text(f"{SMALL.replace('digits', 'no/where')}")
    program, *arguments = line.split()
    code = (
        f"import sys, runpy\nsys.argv = {[program, *arguments]}\n"
        f"try:\n    runpy.run_module('{PROGRAMS[program]}', run_name='__main__')\n"
        "finally:\n    assert 'torch' not in sys.modules"
    )
    done = process("-c", code, cwd=tmp_path)
    assert done.returncode == (2 if "settings" in fault and fault != NO_RUN else 1)
    (said,) = done.stderr.splitlines()
    assert said.startswith("vkd: ")
    assert fault in said


@pytest.mark.parametrize("module", PROGRAMS.values())
def test_the_version_is_shown(module):
    done = process("-m", module, "--version")
    assert (done.stdout, done.stderr, done.returncode) == (f"gan-vkd {__version__}\n", "", 0)


def test_the_shell_completes_without_torch(monkeypatch):
    code = (
        "import sys\nsys.argv = ['vkd']\nfrom gan_vkd.cli import main\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    monkeypatch.setenv("_VKD_COMPLETE", "complete_bash")
    for line, found in (
        ("vkd train cifar10_1", ["cifar10_10pct"]),
        ("vkd train --json cifar10_1", ["cifar10_10pct"]),
        ("vkd train quickstart train.ba", ["train.batch_size="]),
    ):
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        done = process("-c", code)
        assert (done.stdout.split(), done.stderr) == (found, "")
