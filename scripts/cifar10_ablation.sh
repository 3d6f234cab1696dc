#!/usr/bin/env bash
# What each part of the distillation does, on CIFAR-10 at 10% and a narrow discriminator: every
# projection with whitening, every normalisation with the orthogonal projection and no distillation,
# in one table.
#   bash scripts/cifar10_ablation.sh [seeds=0,1,2] [jobs=2] [out=DIR] [arms=none,linear+whitening,...] [key.sub=value ...]
# `jobs` runs go on at once. Finished runs are skipped, stopped ones continued; a run that fails does
# not stop the others. The identity needs equal widths: it reads the teacher's second stage.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

arms=none
for projection in orthogonal orthogonal_static orthogonal_full cayley householder linear mlp identity; do
    arms+=,$projection+whitening
done
for normalization in whitening_pca whitening_cholesky standardize layer_norm l2 none; do
    arms+=,orthogonal+$normalization
done
seeds=0,1,2 jobs=2 out=runs/cifar10_10pct_ablation settings=()
for argument in "$@"; do
    case $argument in
        arms=*|seeds=*|jobs=*|out=*) declare "${argument%%=*}=${argument#*=}" ;;
        *=*) settings+=("$argument") ;;
        *) echo "$0: $argument: expected key=value" >&2; exit 2 ;;
    esac
done

cores=$(python -c 'import os; print(os.cpu_count())')
export OMP_NUM_THREADS=$((cores > jobs ? cores / jobs : 1))
runs=() commands=()
for seed in ${seeds//,/ }; do
    for arm in ${arms//,/ }; do
        run=$out/${arm}_seed$seed
        command=(vkd train configs/cifar10_10pct_ablation.yaml "seed=$seed" "arm=$arm"
            "distill.projection=${arm%+*}" "distill.normalization=${arm#*+}"
            ${settings[@]+"${settings[@]}"})
        case $arm in
            none) command+=(distill=null) ;;
            identity+*) command+=(distill.teacher.layer=layer2) ;;
        esac
        runs+=("$run") commands+=("$(printf '%q ' "${command[@]}" --out "$run" --resume)")
    done
done
failed=0
printf '%s\0' "${commands[@]}" | xargs -0 -n 1 -P "$jobs" bash -c || failed=$?
if [ "$failed" != 0 ]; then
    echo "$0: some runs failed, see above; call again to go on with them" >&2
    exit 1
fi
vkd compare "${runs[@]}" --out "$out"
