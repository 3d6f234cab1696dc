#!/usr/bin/env bash
# Lint, types and tests, in parallel (-n 0: one after the other); further arguments go to pytest.
#   bash scripts/test.sh [fast] [ARGUMENT ...]
# fast: skips tests that train, start processes or read real data (tests/slow.txt, mark slow).
set -euo pipefail
extras="[test]"
source "$(dirname "$0")/setup.sh"
tier=()
if [ "${1:-}" = fast ]; then
    shift
    tier=(-m "not slow")
fi
ruff check .
ruff format --check .
mypy
# two processes more than cores, since many tests wait for processes that they start
workers=$(($(getconf _NPROCESSORS_ONLN) + 2))
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} python -m pytest -n $((workers < 8 ? workers : 8)) \
    --dist worksteal ${tier[@]+"${tier[@]}"} "$@"
