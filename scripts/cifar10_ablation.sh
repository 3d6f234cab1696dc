#!/usr/bin/env bash
# What each part of the distillation does, on CIFAR-10 at 10%: the arms of configs/ablation in one table.
#   bash scripts/cifar10_ablation.sh [seeds=0,1,2] [jobs=1] [out=DIR] [key.sub=value ...]
# Finished runs are skipped, stopped ones continued; a run that fails does not stop the others.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
seeds=0,1,2 jobs=1 out=runs/cifar10_10pct_ablation
options "seeds jobs out" "$@"
exec vkd sweep configs/ablation/*.yaml --seeds "$seeds" --jobs "$jobs" --out "$out" \
    ${settings[@]+"${settings[@]}"}
