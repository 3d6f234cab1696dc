#!/usr/bin/env bash
# Measures training on one GPU in at most 9 minutes, without network, and writes OUT/gpu.md and gpu.json: the
# tests marked `cuda`, times of steps and iterations beside the published trainer's, several runs at once,
# evaluation, and the kernels that take the most time.
#   bash benchmarks/gpu.sh [OUT=runs/gpu] [ARGUMENT ...]      arguments of benchmarks/gpu.py
#   SHARED=../shared       folder with data and weights; random ones take the place of what is missing
#   WHEELS=FOLDER          of benchmarks/pack.sh, where there is no package index
# Without a GPU: bash benchmarks/gpu.sh OUT --device cpu --tiny, which tests the program.
set -euo pipefail
out=$(realpath -m "${1:-$(dirname "$0")/../runs/gpu}")
shift || true
for name in SHARED WHEELS; do  # before the working directory changes
    [ -z "${!name:-}" ] || export "$name=$(realpath -m "${!name}")"
done
source "$(dirname "$0")/../scripts/setup.sh"
exec python benchmarks/gpu.py "$out" --shared "${SHARED:-../shared}" \
    --seconds $((540 - SECONDS)) "$@"
