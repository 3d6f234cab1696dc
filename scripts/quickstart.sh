#!/usr/bin/env bash
# All steps in minutes on two CPU cores, without a download: handwritten digits, training of a teacher and
# a judge, three arms, a table and a picture.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
teacher=runs/quickstart/teacher.safetensors judge=runs/quickstart/judge.safetensors
[ -e $teacher ] || vkd teach quickstart_teacher --out $teacher
[ -e $judge ] || vkd teach quickstart_teacher seed=1 depth=8 --out $judge
exec bash scripts/arms.sh quickstart "$@"
