#!/usr/bin/env bash
# Memorises 16 images of COCO, with and without a teacher that has memorised them: one table.
#   bash scripts/coco_memorise.sh data.root=/data/coco [seeds=1,2,3] [jobs=auto] [epochs=80] [out=DIR] [key.sub=value ...]
# Settings apply to teacher and students, epochs to the students only; the loss weights were chosen at
# seed 0. Called again it continues.
set -euo pipefail
extras="[detect]"
source "$(dirname "$0")/setup.sh"
seeds=1,2,3 jobs=auto epochs=80 out=runs/coco_memorise
options "seeds jobs epochs out" "$@"
plain=coco_memorise_vidt_nano
# Of the teacher's tokens, the patch tokens help most at the start; [DET] tokens help once those of student
# and teacher find the same objects.
taught=$plain+objectives/vidt_vkd+teacher.size=nano+distill.padding=left_out+distill.body=0.1+distill.neck=0.1
vkd-detect train $plain seed=100 ${settings[@]+"${settings[@]}"} --out "$out/teacher" --resume
exec vkd-detect sweep $plain $taught "teacher.weights=$out/teacher" \
    --seeds "$seeds" --jobs "$jobs" --out "$out" evaluate.every=2 ${settings[@]+"${settings[@]}"} \
    "train.epochs=$epochs"
