"""The built wheel contains everything that a run needs, including the settings."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "data.num_images=100", "model.ch=2", "model.z_dim=8", "train.iterations=2", "train.d_steps=1",
    "train.batch_size=8", "evaluate.every=2", "evaluate.num_samples=20",
    "evaluate.standing_batches=2", "device=cpu",
]  # fmt: skip


def test_the_wheel_trains_the_quickstart_from_an_empty_folder(
    classifier: Path, tmp_path: Path
) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}

    def python(*arguments: str) -> str:
        command = [sys.executable, "-P", *arguments]
        return subprocess.run(
            command, cwd=empty, env=environment, check=True, capture_output=True, text=True
        ).stdout

    where = python("-c", "import gan_vkd; print(gan_vkd.__file__)")
    assert where.startswith(str(tmp_path / "installed"))
    names = {str(file.relative_to(ROOT / "configs")) for file in (ROOT / "configs").rglob("*.yaml")}
    listed = python("-m", "gan_vkd", "configs").splitlines()
    assert {f"{line.split()[0]}.yaml" for line in listed} == names
    judge = f"evaluate.features.weights={classifier}"
    output = python("-m", "gan_vkd", "train", "quickstart", *SMALL, judge)
    assert "runs/quickstart/seed0: finished, " in output
    assert (empty / "runs" / "quickstart" / "seed0" / "generator.safetensors").is_file()
