#!/usr/bin/env bash
# Compares whitening with no distillation, FitNets and KD-DLGM, with an ImageNet teacher, at a size for two
# CPU cores: the arms of configs/recipe, in one table with two judges. Distances are not FID.
#   bash scripts/cifar10_recipe.sh [arms=none,fitnets,kd_dlgm,whitening,whitening_pca] [seeds=0,1,2] [jobs=2] [out=DIR] [key.sub=value ...]
# Finished runs are skipped, stopped ones continued; a run that fails does not stop the others.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
arms=none,fitnets,kd_dlgm,whitening,whitening_pca seeds=0,1,2 jobs=2 out=runs/cifar10_recipe
options "arms seeds jobs out" "$@"
configs=()
for arm in ${arms//,/ }; do configs+=("recipe/$arm"); done
exec vkd sweep "${configs[@]}" --seeds "$seeds" --jobs "$jobs" --out "$out" \
    ${settings[@]+"${settings[@]}"}
