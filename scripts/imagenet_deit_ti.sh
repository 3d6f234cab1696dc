#!/usr/bin/env bash
# DeiT-Ti with VkD on ImageNet, on all GPUs of this machine; called again it continues
# (out=runs/NAME/seed0).
#   bash scripts/imagenet_deit_ti.sh data.source=/data/imagenet/train data.heldout=/data/imagenet/val
#   bash scripts/imagenet_deit_ti.sh gpus=4 student.name=deit_small_distilled_patch16_224 out=runs/s train.accumulate=2 ...
#   bash scripts/imagenet_deit_ti.sh config=imagenet_deit_ti ...    # without a teacher
# The teacher, RegNetY-160, is downloaded by timm; teachers.regnety160.weights=FILE uses a local copy.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
config=imagenet_deit_ti_vkd gpus='' out=''
options "config gpus out" "$@"
gpus=${gpus:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}
exec torchrun --standalone --nproc-per-node="$gpus" --max-restarts=3 \
    -m classification train "$config" ${settings[@]+"${settings[@]}"} \
    ${out:+--out "$out"} --resume
