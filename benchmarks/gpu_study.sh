#!/usr/bin/env bash
# Trains arms of VkD side by side on one GPU for some minutes, at published width on 5,000 real images, and
# evaluates them by two judges. Without network. OUT then has at most 8 small files: study.md (the table),
# table.csv, samples.png, curves.png, curves.csv.
#   bash benchmarks/gpu_study.sh MINUTES [OUT=runs/gpu_study/results] [key=value ...]
#   arms=none,layernorm,whitening_all,whitening,whitening_pca   seeds=0   jobs=(all runs)   evaluations=3
#   trial=100 (iterations)   runs=runs/gpu_study   key.sub=value: settings of all runs
#   SHARED=../shared       folder with data/ and weights/, as benchmarks/pack.sh writes it
#   WHEELS=FOLDER          of benchmarks/pack.sh, where there is no package index
# Arms are files of configs/recipe. All train as many iterations as fit by a trial of the last arm.
# Stopped (Ctrl-C, SIGTERM) and called again, it continues with the same number, which is in RUNS/iterations.
set -euo pipefail
refuse() { echo "$0: $1" >&2; exit 2; }
minutes=${1:-}
[[ $minutes =~ ^[1-9][0-9]*$ ]] || refuse "MINUTES=$minutes: expected whole minutes for all runs together"
shift
results=''
case "${1:-}" in ''|*=*) ;; *) results=$(realpath -m "$1"); shift ;; esac
for name in SHARED WHEELS; do  # before the working directory changes
    [ -z "${!name:-}" ] || export "$name=$(realpath -m "${!name}")"
done
source "$(dirname "$0")/../scripts/setup.sh"
arms=none,layernorm,whitening_all,whitening,whitening_pca seeds=0 jobs='' evaluations=3 trial=100
runs=runs/gpu_study
options "arms seeds jobs evaluations trial runs" "$@"
runs=$(realpath -m "$runs") results=${results:-$runs/results}
configs=()
for arm in ${arms//,/ }; do configs+=("recipe/$arm"); done
last=${configs[-1]}
IFS=, read -ra listed <<< "$seeds"
count=$((${#configs[@]} * ${#listed[@]}))
jobs=${jobs:-$count}
[[ $jobs =~ ^[1-9][0-9]*$ ]] || refuse "jobs=$jobs: expected the number of runs at once"

shared=$(realpath -m "${SHARED:-../shared}")
data=$shared/data/cifar10-subset lite=$shared/weights/efficientnet_lite/tf_efficientnet_lite
resnet=$shared/weights/cifar_resnet/resnet56-4bfd9763.th
for file in "$data"/{train,test}.zip "$lite"{0,2}.safetensors "$resnet"; do
    [ -f "$file" ] || refuse "$file: no such file; set SHARED"
done
settings=(
    "data.source=$data/train.zip" "data.heldout=$data/test.zip" data.fraction=null data.num_images=5000
    model.ch=64 train.d_steps=4 train.g_lr=2e-4 train.d_lr=2e-4
    "distill.teacher.weights=${lite}0.safetensors" "evaluate.features.weights=$resnet"
    "evaluate.also=[{name: timm/tf_efficientnet_lite2, size: 128, weights: '${lite}2.safetensors'}]"
    evaluate.num_samples=10000 train.logger=none "cache=$runs/features"
    ${settings[@]+"${settings[@]}"}
)
# Runs a command; a signal to this script stops it first, so that the runs write a checkpoint.
stoppable() {
    "$@" &
    trap "kill -TERM $!; wait $! || true; exit 143" INT TERM HUP
    local code=0
    wait $! || code=$?
    trap - INT TERM HUP
    return "$code"
}
reserve=45  # seconds, for the table and the pictures
mkdir -p "$runs" "$results"

if [ ! -s "$runs/iterations" ]; then
    rm -rf "$runs/trial"
    stoppable vkd sweep "$last" --out "$runs/trial" --seeds 0 "${settings[@]}" train.iterations=1 \
        evaluate.num_samples=100 train.log_every=1  # computes the features of the images, which are kept
    rm -rf "$runs/trial"
    begun=$SECONDS  # as many runs at once as later
    stoppable vkd sweep "$last" --out "$runs/trial" --seeds "$(seq -s , 0 $((jobs - 1)))" \
        --jobs "$jobs" "${settings[@]}" "train.iterations=$trial" "train.log_every=$((trial / 2))" \
        "evaluate.every=$trial" "train.sample_every=$trial" "train.checkpoint_every=$trial"
    rounds=$(((count + jobs - 1) / jobs))
    python scripts/iterations_that_fit.py "$runs/trial/${last#recipe/}_seed0" \
        --took $((SECONDS - begun)) --share $(((minutes * 60 - SECONDS - reserve) / rounds)) \
        --evaluations "$evaluations" > "$runs/iterations.part"
    mv "$runs/iterations.part" "$runs/iterations"
    rm -rf "$runs/trial"
fi
iterations=$(< "$runs/iterations")
every=$(((iterations + evaluations - 1) / evaluations))
# The moving average covers a twentieth of the run, at most the published 10,000 iterations.
read -r decay start < <(awk -v n="$iterations" 'BEGIN {
    window = n / 20; if (window < 2) window = 2; if (window > 10000) window = 10000
    printf "%.6f %d\n", 1 - 1 / window, window < 1000 ? window : 1000 }')

left=$((minutes * 60 - SECONDS - reserve))
code=0
stoppable timeout --signal=TERM --kill-after=60 "$((left > 1 ? left : 1))" \
    vkd sweep "${configs[@]}" --seeds "$seeds" --jobs "$jobs" --out "$runs" "${settings[@]}" \
    "train.iterations=$iterations" "train.ema_decay=$decay" "train.ema_start=$start" \
    "evaluate.every=$every" "train.checkpoint_every=$every" "train.sample_every=$every" || code=$?

evaluated=()
for arm in ${arms//,/ }; do
    for seed in "${listed[@]}"; do
        run=$runs/${arm}_seed$seed
        if grep -q '"judges"' "$run/metrics.jsonl" 2>/dev/null; then evaluated+=("$run"); fi
    done
done
[ ${#evaluated[@]} -gt 0 ] || refuse "no run has been evaluated (exit code $code of the sweep): set more minutes"
if [ "$code" = 0 ]; then
    cp "$runs"/{table.md,table.csv,samples.png} "$results"
else
    vkd compare "${evaluated[@]}" --out "$results" > /dev/null
fi
python benchmarks/curves.py "${evaluated[@]}" --out "$results"
{
    echo "# Arms of VkD side by side, $minutes minutes"
    echo
    echo "Command: \`bash benchmarks/gpu_study.sh $minutes ${*@Q}\`, commit $(git describe --always --dirty 2>/dev/null || echo unknown)."
    python -c 'import sys; sys.path.insert(0, "benchmarks"); from timing import machine; print(f"{machine()}.")'
    awk -v n="$iterations" -v d="$decay" -v j="$jobs" 'BEGIN {
        printf "Every run: %d iterations, %.2g%% of the published 125,000; EMA decay %s; %d at once.\n", n, n / 1250, d, j }'
    [ "$code" = 0 ] || echo "Not all runs are finished (exit code $code): call again to continue."
    echo "Distances are not FID. One seed of an arm says little: two runs of one arm may differ as much as two arms."
    echo
    cat "$results/table.md"
    printf '\n![samples](samples.png)\n\n![curves](curves.png)\n'
} > "$results/study.md"
rm "$results/table.md"
echo "$results:"; ls -l "$results"
