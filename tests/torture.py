"""Kills a run repeatedly and compares its result with that of an undisturbed run.

    python -m tests.torture [--kills 50] [--seed 0] [--out FOLDER]

A third of the kills (SIGKILL) come at a random time including start-up, a third during training
with a checkpoint every iteration, a third while a checkpoint is being written. The final state must
equal that of the undisturbed run bit for bit, and no complete checkpoint may be lost. Then 200
copies of a checkpoint are truncated, emptied, zeroed in part or have bits flipped: none may be
loaded.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import torch

from gan_vkd.data.settings import DataSettings
from gan_vkd.game.settings import load_settings
from gan_vkd.run import Run
from gan_vkd.runtime.checkpoint import load_state
from gan_vkd.runtime.errors import VkdError
from gan_vkd.teachers.teach import TeachSettings, teach
from tests.processes import Forked
from tests.states import TIMED, differences

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart_whitening.yaml"


def write_settings(folder: Path, iterations: int) -> Path:
    """Writes settings of a tiny run with whitening and a checkpoint every iteration."""
    torch.manual_seed(0)
    classifier = folder / "classifier.safetensors"
    teach(
        TeachSettings(
            data=DataSettings(source="digits", num_images=50), iterations=2, batch_size=10
        ),
        classifier,
    )
    settings = load_settings(
        CONFIG,
        [
            f"evaluate.features.weights={classifier}", f"distill.teacher.weights={classifier}",
            "data.num_images=100", "model.ch=2", "model.z_dim=8", "train.batch_size=8",
            "train.d_steps=1", f"train.iterations={iterations}", "train.log_every=1",
            "train.checkpoint_every=1", "train.sample_every=7", "evaluate.every=10",
            "evaluate.num_samples=20", "evaluate.standing_batches=2", "device=cpu",
        ],
    )  # fmt: skip
    file = folder / "settings.yaml"
    file.write_text(settings.dump())
    return file


def start(settings: Path, run: Path) -> Forked:
    command = ["-m", "gan_vkd", "train", str(settings), "--out", str(run), "--resume"]
    return Forked(command, run.with_suffix(".log"))


def newest(run: Path) -> int:
    """Returns the iteration of the newest intact checkpoint, 0 for none."""
    for file in reversed(Run(run).checkpoints()):
        try:
            load_state(file)
        except VkdError:
            continue
        return int(file.stem)
    return 0


def writing(run: Path, process: Forked) -> bool:
    """Returns whether a checkpoint of this process is partially written."""
    return any((run / "checkpoints").glob(f".*.{process.pid}.vkd-tmp"))


def kill_again_and_again(settings: Path, run: Path, kills: int, chance: random.Random) -> int:
    """Kills `kills` processes of one run; returns how many were writing a checkpoint."""
    written, start_up = 0, 6.0
    for number in range(1, kills + 1):
        before, since = newest(run), time.monotonic()
        process = start(settings, run)
        if number % 3:
            while process.poll() is None and not writing(run, process):
                time.sleep(0.001)
            start_up = time.monotonic() - since
        if number % 3 == 1:
            time.sleep(chance.uniform(0, 0.3))
        elif number % 3 == 0:
            time.sleep(chance.uniform(0, 1.2 * start_up))
        process.kill()
        process.wait()
        written += writing(run, process)
        after = newest(run)
        if after < before:
            raise SystemExit(f"kill {number}: checkpoint {before} is lost, {after} is the newest")
        print(f"kill {number}: iteration {before} -> {after}", flush=True)
    return written


def finish(settings: Path, run: Path) -> None:
    process = start(settings, run)
    output = process.wait()
    if process.returncode:
        raise SystemExit(f"{run}: exit code {process.returncode}\n{output}")


def corrupt(file: Path, count: int, chance: random.Random) -> int:
    """Returns how many of `count` damaged copies were loaded."""
    whole, copy, loaded = file.read_bytes(), file.with_name("damaged.safetensors"), 0
    for number in range(count):
        data = bytearray(whole)
        kind = number % 3
        if kind == 0:
            del data[chance.randrange(len(data)) :]
        elif kind == 1:
            for _ in range(chance.randint(1, 8)):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        else:
            begin = chance.randrange(len(data))
            end = min(len(data), begin + chance.randint(1, 100_000))
            data[begin:end] = bytes(end - begin)
        if number < 3 or bytes(data) == whole:  # empty these, and any unchanged copy
            data = bytearray()
        copy.write_bytes(data)
        try:
            load_state(copy)
        except VkdError:
            continue
        loaded += 1
    copy.unlink()
    return loaded


def torture(folder: Path, kills: int, seed: int) -> None:
    """Runs the whole test in the folder; raises SystemExit if it fails."""
    chance, since = random.Random(seed), time.monotonic()
    settings = write_settings(folder, iterations=20 + 4 * kills)
    whole, killed = folder / "whole", folder / "killed"
    finish(settings, whole)
    written = kill_again_and_again(settings, killed, kills, chance)
    finish(settings, killed)
    if left := list(killed.rglob(".*.vkd-tmp")):
        raise SystemExit(f"half-written files are left: {left}")
    if different := differences(whole, killed):
        raise SystemExit(f"differ after {kills} kills: {', '.join(different[:10])}")
    records = [
        [{k: v for k, v in r.items() if k not in TIMED} for r in Run(run).records("metrics")]
        for run in (whole, killed)
    ]
    if records[0] != records[1]:
        raise SystemExit("the records of the two runs differ")
    loaded = corrupt(Run(killed).checkpoints()[-1], 200, chance)
    if loaded:
        raise SystemExit(f"{loaded} of 200 damaged checkpoints were loaded")
    print(
        f"{kills} kills, {written} of them while a checkpoint was written: final state and records "
        f"identical to the last bit, no checkpoint lost; 200 damaged checkpoints refused "
        f"({time.monotonic() - since:.0f} s)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a new folder; default: a temporary one")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        torture(folder, chosen.kills, chosen.seed)


if __name__ == "__main__":
    main()
