#!/usr/bin/env bash
# A small ViT on 10% of CIFAR-10: every method, three seeds, one table; CiT and VkD with their stem.
#   bash scripts/cifar10_vit.sh [seeds=0,1,2] [jobs=1] [out=DIR] [key.sub=value ...]
# Finished runs are skipped, stopped ones continued.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
seeds=0,1,2 jobs=1 out=runs/cifar10_vit
options "seeds jobs out" "$@"
exec vkd-classify sweep configs/cifar10_vit.yaml \
    configs/cifar10_vit_{stem,hard,soft,cit,dearkd,vkd_linear,vkd}.yaml \
    --seeds "$seeds" --jobs "$jobs" --out "$out" ${settings[@]+"${settings[@]}"}
