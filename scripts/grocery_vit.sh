#!/usr/bin/env bash
# A small ViT from nothing on photographs of groceries: plain, soft token, VkD and VkD with a linear map,
# three seeds, one table. The teacher is an EfficientNet-Lite0 of ImageNet; its predictions of the 43
# classes are those of a linear classifier that is trained first, on the same training photographs.
#   bash scripts/grocery_vit.sh photos=photos.zip weights=tf_efficientnet_lite0.safetensors [seeds=0,1,2] [jobs=auto] [out=DIR] [key.sub=value ...]
# Finished runs are skipped, stopped ones continued; settings apply to the students.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
photos='' weights='' seeds=0,1,2 jobs=auto out=runs/grocery_vit
options "photos weights seeds jobs out" "$@"
[ -e "$out/photos" ] || { mkdir -p "$out" && python benchmarks/grocery_photos.py "$photos" "$out/photos"; }
data=("data.source=$out/photos/train" "data.heldout=$out/photos/heldout")
vkd-classify train finetune_vit "${data[@]}" student.name=tf_efficientnet_lite0 "student.weights=$weights" \
    student.drop_path=0 train.freeze=all train.layer_decay=1 'data.mean=[0.5, 0.5, 0.5]' 'data.std=[0.5, 0.5, 0.5]' \
    data.workers=0 augment.mixup=0 augment.cutmix=0 augment.policy=null augment.erasing=0 'augment.scale=[0.25, 1.0]' \
    train.epochs=8 train.warmup_epochs=0 train.lr=2e-2 evaluate.every=2 seed=100 --out "$out/teacher" --resume
taught="+student.name=deit_tiny_distilled_patch16_224+teachers.lite0.name=student"
taught+="+teachers.lite0.weights=$out/teacher+cache=$out/cache"
vkd="grocery_vit+objectives/vkd+objective.features.weight=20.0$taught"
exec vkd-classify sweep grocery_vit "grocery_vit+objectives/soft$taught" "$vkd" \
    "$vkd+objective.features.method.projection=linear+arm=vkd_linear" \
    --seeds "$seeds" --jobs "$jobs" --out "$out" "${data[@]}" ${settings[@]+"${settings[@]}"}
