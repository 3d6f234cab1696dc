#!/usr/bin/env bash
# Lint, types and tests; arguments go to pytest.
set -euo pipefail
extras="[test]"
source "$(dirname "$0")/setup.sh"
ruff check .
ruff format --check .
mypy
python -m pytest "$@"
