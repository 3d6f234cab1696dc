#!/usr/bin/env bash
# The whole path in minutes on two CPU cores, without a download: handwritten digits, a teacher and a
# judge trained on the spot, three arms, a table and a picture.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
for network in teacher judge; do
    file=runs/quickstart/$network.safetensors
    [ -e "$file" ] || vkd teach "configs/quickstart_$network.yaml" --out "$file"
done
exec bash scripts/arms.sh quickstart "$@"
