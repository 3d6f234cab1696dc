#!/usr/bin/env bash
# Lint, types and tests, some at once (-n 0: one after the other); arguments go to pytest.
set -euo pipefail
extras="[test]"
source "$(dirname "$0")/setup.sh"
ruff check .
ruff format --check .
mypy
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} python -m pytest -n auto --maxprocesses 8 "$@"
