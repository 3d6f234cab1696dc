#!/usr/bin/env bash
# CIFAR-10 at 10%: no distillation, VkD with layer norm, VkD with whitening, compared by FID.
#   bash scripts/cifar10_10pct.sh                          published width, one GPU
#   bash scripts/cifar10_10pct.sh [arms=none,layernorm,whitening] [seeds=0] [jobs=auto] [out=DIR] [key.sub=value ...]
#   bash scripts/cifar10_10pct.sh variant=cpu              small width, two CPU cores, under an hour
exec bash "$(dirname "$0")/arms.sh" cifar10_10pct "$@"
