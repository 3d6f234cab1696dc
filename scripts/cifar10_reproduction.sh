#!/usr/bin/env bash
# Possible readings of VkD's publication on CIFAR-10 at 10%: feature (pooled, head) x projection (trained,
# fixed) x whitening (running ZCA, Cholesky of the batch) x KD-DLGM's aggregated term (kept, removed), with
# no distillation and KD-DLGM, in one table. All train as many iterations as fit into the minutes, from the
# same weights.
#   bash scripts/cifar10_reproduction.sh minutes=840       published width and teacher, one GPU
#   bash scripts/cifar10_reproduction.sh minutes=840 [seeds=0] [jobs=1] [out=DIR] [key.sub=value ...]
#   bash scripts/cifar10_reproduction.sh minutes=3 variant=cpu jobs=2      tests this script on two idle cores
# The number of iterations is measured by a short trial of the slowest run and stored in OUT/iterations.
# Called again, the script continues with that number; delete the file to measure again, edit it to train
# longer.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
minutes='' seeds=0 jobs=1 out='' variant=''
options "minutes seeds jobs out variant" "$@"
refuse() { echo "$0: $1" >&2; exit 2; }
[[ $minutes =~ ^[1-9][0-9]*$ ]] || refuse "minutes=$minutes: expected whole minutes for all runs together"
[[ $jobs =~ ^[1-9][0-9]*$ ]] || refuse "jobs=$jobs: expected the number of runs at once"
case " ${settings[*]-} " in *" train.iterations="*) refuse "train.iterations: follows from minutes" ;; esac

trial=200  # iterations
case $variant in
    '') ;;
    cpu)
        trial=2
        settings=(model.ch=8 train.d_steps=1 data.fraction=null data.num_images=500
            "distill.teacher={name: cifar_resnet56}" distill.text=null distill.weight=0.1
            evaluate.features.name=cifar_resnet20 evaluate.num_samples=200
            ${settings[@]+"${settings[@]}"}) ;;
    *) refuse "variant=$variant: expected cpu, or none" ;;
esac
out=${out:-runs/cifar10_reproduction${variant:+_$variant}}
settings=("cache=$out/features" ${settings[@]+"${settings[@]}"})
configs=(cifar10_10pct cifar10_10pct+methods/kd_dlgm)
for reading in {pooled,head}_{trained,fixed}_{zca,cholesky}_{removed,kept}; do
    config=cifar10_10pct+methods/whitening
    for choice in ${reading//_/ }; do
        case $choice in
            head) config+=+distill.student.feature=head ;;  # KD-DLGAN's, two linear layers
            fixed) config+=+distill.method.projection=orthogonal_fixed ;;  # P is random, not trained
            cholesky) config+=+methods/cholesky ;;
            kept) config+=+distill.aggregated=10 ;;  # as published
        esac
    done
    config+=+arm=$reading
    configs+=("$config")
    [ $reading != head_trained_cholesky_kept ] || slowest=$config
done

if [ ! -s "$out/iterations" ]; then
    # as many runs at once as later
    rm -rf "$out/trial"
    begun=$SECONDS
    vkd sweep "$slowest" --seeds "$(seq -s , 0 $((jobs - 1)))" --jobs "$jobs" \
        --out "$out/trial" "${settings[@]}" train.iterations=$trial \
        train.log_every=$((trial / 2))
    IFS=, read -ra listed <<< "$seeds"
    rounds=$(((${#configs[@]} * ${#listed[@]} + jobs - 1) / jobs))
    python scripts/iterations_that_fit.py "$out"/trial/*_seed0 --took $((SECONDS - begun)) \
        --share $(((minutes * 60 - SECONDS) / rounds)) > "$out/iterations.part"
    mv "$out/iterations.part" "$out/iterations"
fi
iterations=$(< "$out/iterations")
length=$(awk -v n="$iterations" 'BEGIN { printf "Every run: %d iterations, %.2g%% of the published 125,000.", n, n / 1250 }')
echo "$length"
vkd sweep "${configs[@]}" --seeds "$seeds" --jobs "$jobs" --out "$out" \
    "${settings[@]}" "train.iterations=$iterations"
printf '\n%s\n' "$length" | tee -a "$out/table.md"
