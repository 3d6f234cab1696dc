#!/usr/bin/env bash
# Builds the documentation site into build/site; warnings are errors. `serve` shows it at
# http://127.0.0.1:8000 and follows changes.
set -euo pipefail
extras="[docs]"
source "$(dirname "$0")/setup.sh"
export NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true
exec python -m mkdocs "${1:-build}" --strict
