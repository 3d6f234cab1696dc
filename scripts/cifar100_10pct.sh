#!/usr/bin/env bash
# CIFAR-100 at 10%: no distillation, VkD with layer norm, VkD with whitening, compared by FID.
#   bash scripts/cifar100_10pct.sh                          published width, one GPU
#   bash scripts/cifar100_10pct.sh seeds=0,1,2 arms=whitening train.iterations=50000
#   bash scripts/cifar100_10pct.sh variant=cpu              small width, two CPU cores, under an hour
exec bash "$(dirname "$0")/arms.sh" cifar100_10pct "$@"
