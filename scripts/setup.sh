# Sourced by the other scripts: puts `vkd` on the PATH. An active environment with this checkout
# installed is used as it is; otherwise .venv is created here, once.
# WHEELS=FOLDER, of benchmarks/pack.sh: for machines that have torch and no package index. Its wheels are
# installed into build/packed, beside the packages of python3.
# Set `extras` before sourcing to install more, e.g. extras="[test]"; arguments would not do, since a
# sourced script sees its caller's.
extras=${extras:-}
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# options "NAMES" ARGUMENTS...: each NAME=value sets the variable NAME, each key.sub=value goes to the
# array `settings`.
options() {
    local names=" $1 " argument
    shift
    settings=()
    for argument in "$@"; do
        case $argument in *=*) ;; *) echo "$0: $argument: expected key=value" >&2; exit 2 ;; esac
        case $names in
            *" ${argument%%=*} "*) printf -v "${argument%%=*}" %s "${argument#*=}" ;;
            *) settings+=("$argument") ;;
        esac
    done
}

installed_here() {
    python -P -c 'import os, sys, gan_vkd; sys.exit(os.path.dirname(os.path.dirname(os.path.realpath(gan_vkd.__file__))) != os.path.realpath("."))' 2>/dev/null \
        && command -v vkd >/dev/null && case $extras in
            "") true ;;
            "[detect]") python -c 'import pycocotools' 2>/dev/null ;;
            "[docs]") python -c 'import latex2mathml, material, mkdocs, mkdocstrings_handlers' 2>/dev/null ;;
            *) python -c 'import gradio, hatchling, hypothesis, ipykernel, latex2mathml, mkdocs, mypy, nbclient, onnxruntime, playwright, pycocotools, pytest, webdataset, xdist' 2>/dev/null ;;
        esac
}

if [ -n "${WHEELS:-}" ]; then
    packed=$PWD/build/packed
    mkdir -p "$packed/bin"
    python3 -m pip install --quiet --disable-pip-version-check --no-index --no-deps --upgrade \
        --target "$packed/site" "$WHEELS"/*.whl || exit 1
    printf '#!/bin/sh\nexec python3 "$@"\n' > "$packed/bin/python"
    printf '#!/bin/sh\nexec python3 -m gan_vkd "$@"\n' > "$packed/bin/vkd"
    chmod +x "$packed"/bin/*
    export PATH="$packed/bin:$PATH" PYTHONPATH="$PWD:$packed/site${PYTHONPATH:+:$PYTHONPATH}"
    return 0
fi
if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && installed_here; then
    return 0
fi
for python in python3 python3.14 python3.13 python3.12 python3.11 none; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
done
if [ "$python" = none ]; then
    echo "setup: Python 3.11 or newer is needed; none is on the PATH" >&2
    exit 1
fi
stamp=".venv/installed-$(cksum < pyproject.toml | cut -d' ' -f1)$extras"
if [ ! -e "$stamp" ]; then
    echo "setup: installing into $PWD/.venv (once; torch may take some minutes)"
    .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv .venv || exit 1
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".$extras" || exit 1
    touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
