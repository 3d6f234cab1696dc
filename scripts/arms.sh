#!/usr/bin/env bash
# Trains the arms of one experiment at some seeds, then puts them into one table and one picture.
#   bash scripts/arms.sh NAME [arms=none,layernorm,whitening] [seeds=0] [jobs=auto] [variant=cpu] [out=DIR] [key.sub=value ...]
# Finished runs are skipped, stopped ones continued. Settings distill.* apply to the arms with a distillation.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
name=$1; shift
arms=none,layernorm,whitening seeds=0 jobs=auto variant='' out=''
options "arms seeds jobs variant out" "$@"
experiment=$name${variant:++sizes/$variant}
configs=()
for arm in ${arms//,/ }; do
    method=$arm
    [ ! -e "configs/methods/${arm}_${name%%_*}.yaml" ] || method=${arm}_${name%%_*}  # for this data set
    if [ "$arm" = none ]; then configs+=("$experiment")
    elif [ -e "configs/${name}_$arm.yaml" ]; then configs+=("${name}_$arm")
    elif [ "$arm$variant" = pkdcpu ]; then  # the gradient of PKD's code is a hundredth of the paper's
        configs+=("$experiment+methods/pkd+methods/resnet+distill.method.form=paper")
    else configs+=("$experiment+methods/$method${variant:++methods/resnet}")
    fi
done
exec vkd sweep "${configs[@]}" --seeds "$seeds" --jobs "$jobs" \
    --out "${out:-runs/$name${variant:+_$variant}}" \
    ${settings[@]+"${settings[@]}"}
