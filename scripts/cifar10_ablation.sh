#!/usr/bin/env bash
# Ablation of the distillation on CIFAR-10 at 10%: every projection with whitening and every
# normalisation with the orthogonal projection, in one table.
#   bash scripts/cifar10_ablation.sh [seeds=0,1,2] [jobs=auto] [out=DIR] [key.sub=value ...]
# Finished runs are skipped, stopped ones continued; a run that fails does not stop the others.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
seeds=0,1,2 jobs=auto out=runs/cifar10_10pct_ablation
options "seeds jobs out" "$@"
base=cifar10_ablation
configs=("$base+distill=null+arm=none" "$base")
for projection in orthogonal_{fixed,static,full} cayley householder linear mlp; do
    configs+=("$base+distill.method.projection=$projection+arm=$projection, whitening")
done
# identity needs equal widths, so it reads the teacher's second stage
configs+=("$base+distill.method.projection=identity+distill.teacher.layer=layer2+arm=identity, whitening")
for kind in pca cholesky; do
    configs+=("$base+distill.method.normalization.kind=$kind+arm=orthogonal, whitening_$kind")
done
for normalization in phi_s layer_norm standardize l2 none; do
    configs+=("$base+distill.method.normalization=$normalization+arm=orthogonal, $normalization")
done
exec vkd sweep "${configs[@]}" --seeds "$seeds" --jobs "$jobs" --out "$out" \
    ${settings[@]+"${settings[@]}"}
