#!/usr/bin/env bash
# 16 images of COCO learnt by heart, with and without a teacher that knows them: three seeds, one table.
#   jobs=2 out=runs/coco_memorise bash scripts/coco_memorise.sh data.root=/data/coco [key.sub=value ...]
# Called again it continues.
set -euo pipefail
extras="[detect]"
source "$(dirname "$0")/setup.sh"
out=${out:-runs/coco_memorise}
plain=configs/coco_memorise_vidt_nano
vkd-detect train $plain.yaml seed=100 "$@" --out "$out/teacher" --resume
exec vkd-detect sweep $plain.yaml ${plain}_vkd.yaml --seeds 0 1 2 --jobs "${jobs:-1}" \
    "teacher.weights=$out/teacher" "$@" --out "$out"
