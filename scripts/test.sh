#!/usr/bin/env bash
# Lint, types and tests; arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh" "[test]"
ruff check .
ruff format --check .
mypy
python -m pytest "$@"
