#!/usr/bin/env bash
# Trains the arms of one experiment at some seeds, then puts them into one table and one picture.
#   bash scripts/arms.sh NAME [arms=none,layernorm,whitening] [seeds=0] [variant=cpu] [out=DIR] [key.sub=value ...]
# Finished arms are skipped, stopped ones continued. Settings of distill.* go to the arms that have it.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

name=$1; shift
arms=none,layernorm,whitening seeds=0 variant='' out=''
common=() distilled=()
for argument in "$@"; do
    case $argument in
        arms=*|seeds=*|variant=*|out=*) declare "${argument%%=*}=${argument#*=}" ;;
        distill.*=*) distilled+=("$argument") ;;
        *=*) common+=("$argument") ;;
        *) echo "$0: $argument: expected key=value" >&2; exit 2 ;;
    esac
done
experiment=$name${variant:+_$variant}
out=${out:-runs/$experiment}

runs=()
for seed in ${seeds//,/ }; do
    for arm in ${arms//,/ }; do
        config=configs/$experiment.yaml settings=("seed=$seed" ${common[@]+"${common[@]}"})
        if [ "$arm" != none ]; then
            config=configs/${experiment}_$arm.yaml settings+=(${distilled[@]+"${distilled[@]}"})
        fi
        vkd train "$config" "${settings[@]}" --out "$out/${arm}_seed$seed" --resume
        runs+=("$out/${arm}_seed$seed")
    done
done
vkd compare "${runs[@]}" --out "$out"
