#!/usr/bin/env bash
# A small ViT on 10% of CIFAR-10: every method, three seeds, one table; CiT and VkD with CiT's stem.
#   bash scripts/cifar10_vit.sh [seeds=0,1,2] [jobs=auto] [out=DIR] [key.sub=value ...]
# Finished runs are skipped, stopped ones continued.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
seeds=0,1,2 jobs=auto out=runs/cifar10_vit
options "seeds jobs out" "$@"
taught=cifar10_vit+objectives/resnet56
# the second teacher is a smaller ResNet; in CiT it is an involution network
exec vkd-classify sweep cifar10_vit "cifar10_vit+student.stem=conv+arm=plain_stem" \
    $taught+objectives/{hard,soft,dearkd} \
    $taught+objectives/cit+teachers.resnet20.name=cifar_resnet20+student.stem=conv \
    cifar10_vit_vkd+objective.features.method.projection=linear+arm=vkd_linear cifar10_vit_vkd \
    --seeds "$seeds" --jobs "$jobs" --out "$out" ${settings[@]+"${settings[@]}"}
