#!/usr/bin/env bash
# Collects what a machine without network needs for benchmarks/gpu.sh and benchmarks/gpu_study.sh, at most 60 MB:
# wheels of the packages that it lacks, 5,000 images with a held-out set, and the networks' weights.
#   bash benchmarks/pack.sh FOLDER
#   SHARED=../shared       folder that has the data and weights, in data/ and weights/
#   TARGET_PYTHON=3.12     its Python; Linux on x86-64
#   HAS="torch ..."        packages that it has
# On that machine, in a checkout: WHEELS=FOLDER/wheels SHARED=FOLDER bash benchmarks/gpu.sh
# The second judge's convolutions are stored in float16, which changes its distances by about 0.01%.
set -euo pipefail
refuse() { echo "$0: $1" >&2; exit 2; }
[ $# = 1 ] || refuse "expected one argument, the folder to write"
folder=$(realpath -m "$1")
source "$(dirname "$0")/../scripts/setup.sh"
shared=${SHARED:-../shared} target=${TARGET_PYTHON:-3.12}
has=${HAS:-torch torchvision timm numpy scipy scikit-learn matplotlib pillow pyyaml requests tqdm tensorboard typer}
for part in data/cifar10-subset weights/efficientnet_lite weights/cifar_resnet; do
    [ -d "$shared/$part" ] || refuse "$shared/$part: no such folder; set SHARED"
done

mkdir -p "$folder"/{wheels,data/cifar10-subset,weights/{efficientnet_lite,cifar_resnet}}
python benchmarks/lacking.py $has > "$folder/wheels/requirements.txt"
echo "lacking, in the versions installed here: $(tr '\n' ' ' < "$folder/wheels/requirements.txt")"
platforms=()
for glibc in 28 27 17; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
rm -f "$folder"/wheels/*.whl
python -m pip download --quiet --disable-pip-version-check --only-binary=:all: --no-deps \
    --python-version "$target" --implementation cp "${platforms[@]}" --platform manylinux2014_x86_64 \
    --dest "$folder/wheels" --requirement "$folder/wheels/requirements.txt"

cp -f "$shared"/data/cifar10-subset/{train,test}.zip "$folder/data/cifar10-subset"
cp -f "$shared"/weights/cifar_resnet/{LICENSE,resnet56-4bfd9763.th} "$folder/weights/cifar_resnet"
cp -f "$shared"/weights/efficientnet_lite/{LICENSE,tf_efficientnet_lite0.safetensors} \
    "$folder/weights/efficientnet_lite"
name=weights/efficientnet_lite/tf_efficientnet_lite2.safetensors
python - "$shared/$name" "$folder/$name" <<'PYTHON'
import sys

from safetensors.torch import load_file, save_file

source, target = sys.argv[1:]
state = load_file(source)
save_file({key: x.half() if x.ndim > 1 else x for key, x in state.items()}, target)
PYTHON
chmod -R u+w "$folder"

bytes=$(find "$folder" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')
(cd "$folder" && find . -type f -printf '%10s  %P\n' | sort -k 2)
awk -v n="$bytes" -v f="$folder" 'BEGIN { printf "%s: %.1f MB\n", f, n / 1e6; exit n > 60e6 }' \
    || refuse "$folder: above 60 MB"
