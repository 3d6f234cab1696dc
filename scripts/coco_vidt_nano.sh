#!/usr/bin/env bash
# ViDT-nano with VkD on COCO, on all GPUs of this machine; called again it continues
# (out=runs/NAME/seed0).
#   bash scripts/coco_vidt_nano.sh data.root=/data/coco
#   bash scripts/coco_vidt_nano.sh gpus=4 student.size=tiny out=runs/tiny train.accumulate=2 ...
#   bash scripts/coco_vidt_nano.sh config=coco_vidt_nano+objectives/vidt_token_matching ...
# The body and the teacher, ViDT-base, are downloaded; student.weights=FILE and teacher.weights=FILE use
# local copies.
set -euo pipefail
extras="[detect]"
source "$(dirname "$0")/setup.sh"
config=coco_vidt_nano+objectives/vidt_vkd gpus='' out=''
options "config gpus out" "$@"
gpus=${gpus:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}
exec torchrun --standalone --nproc-per-node="$gpus" --max-restarts=3 \
    -m classification.detection train "$config" ${settings[@]+"${settings[@]}"} \
    ${out:+--out "$out"} --resume
