#!/usr/bin/env bash
# ViDT-nano with VkD on COCO, on all GPUs of this machine; called again it continues.
#   bash scripts/coco_vidt_nano.sh data.root=/data/coco
#   bash scripts/coco_vidt_nano.sh gpus=4 config=coco_vidt_tiny_vkd out=runs/tiny train.accumulate=2 ...
# The body and the teacher, ViDT-base, are fetched; student.weights=FILE and teacher.weights=FILE are
# local copies.
set -euo pipefail
extras="[detect]"
source "$(dirname "$0")/setup.sh"
config=coco_vidt_nano_vkd gpus='' out=''
options "config gpus out" "$@"
gpus=${gpus:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}
exec torchrun --standalone --nproc-per-node="$gpus" --max-restarts=3 \
    -m classification.detection train "configs/$config.yaml" ${settings[@]+"${settings[@]}"} \
    --out "${out:-runs/$config}" --resume
