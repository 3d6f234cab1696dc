#!/usr/bin/env bash
# 16 images of COCO learnt by heart, with and without a teacher that knows them: one table.
#   bash scripts/coco_memorise.sh data.root=/data/coco [seeds=1,2,3] [jobs=1] [epochs=80] [out=DIR] [key.sub=value ...]
# Settings are the teacher's and the students', epochs the students' alone; the weights of the losses
# were chosen at seed 0. Called again it continues.
set -euo pipefail
extras="[detect]"
source "$(dirname "$0")/setup.sh"
seeds=1,2,3 jobs=1 epochs=80 out=runs/coco_memorise
options "seeds jobs epochs out" "$@"
plain=coco_memorise_vidt_nano
# Of the teacher's tokens the patches help most at the start; [DET] tokens have nothing to tell before they
# find the same objects.
taught=$plain+objectives/vidt_vkd+teacher.size=nano+distill.body=0.1+distill.neck=0.1
vkd-detect train $plain seed=100 ${settings[@]+"${settings[@]}"} --out "$out/teacher" --resume
exec vkd-detect sweep $plain $taught "teacher.weights=$out/teacher" \
    --seeds "$seeds" --jobs "$jobs" --out "$out" evaluate.every=2 ${settings[@]+"${settings[@]}"} \
    "train.epochs=$epochs"
