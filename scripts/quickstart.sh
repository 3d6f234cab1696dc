#!/usr/bin/env bash
# `vkd quickstart`, all steps in minutes on two CPU cores, in an environment that is made if there is none.
#   bash scripts/quickstart.sh [seeds=0] [jobs=auto] [out=DIR] [key.sub=value ...]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
seeds=0 jobs=auto out=runs/quickstart
options "seeds jobs out" "$@"
exec vkd quickstart --seeds "$seeds" --jobs "$jobs" --out "$out" ${settings[@]+"${settings[@]}"}
