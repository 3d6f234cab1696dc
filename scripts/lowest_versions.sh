#!/usr/bin/env bash
# Installs the lowest versions that pyproject.toml allows into a new environment and tries them: imports, the
# quickstart for 3 iterations, and the tests of reading files of strangers. Minutes and 6 GB.
#   bash scripts/lowest_versions.sh [FOLDER=build/lowest]
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu takes the smaller torch for CPUs.
set -euo pipefail
folder=$(realpath -m "${1:-build/lowest}")
cd "$(dirname "$0")/.."
[ ! -e "$folder" ] || { echo "$0: $folder: exists already; remove it first" >&2; exit 2; }
python3.11 -m venv "$folder"
export PATH="$folder/bin:$PATH"
python > "$folder/lowest.txt" <<'PYTHON'
import re
import tomllib

with open("pyproject.toml", "rb") as file:
    for requirement in tomllib.load(file)["project"]["dependencies"]:
        if bound := re.match(r"([\w-]+)>=([\w.]+)", requirement):  # torchvision has none: torch's
            print("{}=={}".format(*bound.groups()))
PYTHON
python -m pip install --quiet --disable-pip-version-check -c "$folder/lowest.txt" -e . pytest hypothesis
python -m pip list --disable-pip-version-check --format=freeze > "$folder/installed.txt"

python -c 'import gan_vkd.training, gan_vkd.report.compare, classification.recognition.training, classification.detection.training'
for part in teacher judge; do
    vkd teach quickstart_teacher iterations=3 device=cpu --out "$folder/$part.safetensors"
done
networks=(distill.teacher.weights="$folder/teacher.safetensors" evaluate.features.weights="$folder/judge.safetensors")
vkd train quickstart_whitening "${networks[@]}" train.iterations=3 evaluate.num_samples=100 device=cpu --out "$folder/run"
vkd compare "$folder/run" --out "$folder/table"
python -m pytest tests/test_checkpoint.py tests/test_any_input.py tests/test_teachers.py
echo "the lowest versions work: $(tr '\n' ' ' < "$folder/lowest.txt")"
