#!/usr/bin/env bash
# Makes .venv with the tested versions of everything (constraints.txt) and the system packages that FFCV's build needs.
# `make` calls it whenever .venv/.installed is missing or older than what it was made from.
set -euo pipefail
cd "$(dirname "$0")/.."

system_python=${1:-python3}
readonly system_python
log=$(mktemp)
trap 'rm -f "$log"' EXIT

main() {
    SECONDS=0
    local python missing
    python=$(find_python)
    mapfile -t missing < <(missing_packages "$python")
    if [ ${#missing[@]} != 0 ]; then
        install_system_packages "${missing[@]}"
        mapfile -t missing < <(missing_packages "$python")
        [ ${#missing[@]} = 0 ] || fail "apt-get succeeded, yet this is still missing: ${missing[*]}."
    fi
    # A marked .venv is one whose set-up was interrupted, perhaps halfway through a package; one without was finished or
    # made by the user, and is kept.
    if [ -e .venv/.installing ] || ! .venv/bin/python -m pip --version >"$log" 2>&1; then
        rm -rf .venv
        "$python" -m venv .venv
    fi
    rm -f .venv/.installed
    touch .venv/.installing
    install_python_packages
    # Last, so that an interrupted set-up leaves no stamp; it names the folder because a virtual environment cannot move.
    rm .venv/.installing
    pwd >.venv/.installed
    say "set-up finished in $((SECONDS / 60)) min $((SECONDS % 60)) s."
}

find_python() {
    local candidate
    for candidate in "$system_python" python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
        # An interpreter that was asked for by name is used or refused, never replaced.
        [ "$system_python" = python3 ] || break
    done
    fail "sparselt needs Python >= 3.11, and $system_python is $("$system_python" --version 2>&1 || true)." \
        "Name another one: make PYTHON=/path/to/python3.12 ..."
}

missing_packages() {
    local python=$1 version
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    command -v g++ >/dev/null || echo g++
    command -v pkg-config >/dev/null || echo pkg-config
    pkg-config --exists opencv4 2>/dev/null || echo libopencv-dev
    pkg-config --exists libturbojpeg 2>/dev/null || echo libturbojpeg0-dev
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "$version-venv"
    "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || echo "$version-dev"
}

install_system_packages() {
    local install=(apt-get install -y --no-install-recommends "$@") as_root=(env DEBIAN_FRONTEND=noninteractive)
    if ! command -v apt-get >/dev/null; then
        fail "no apt-get here, and FFCV's build needs what these Debian packages hold: $*" \
            "That is: a C++ compiler, pkg-config, OpenCV 4 and libjpeg-turbo with their headers, and Python's venv and headers." \
            "Install them with this system's package manager, or in an active conda environment:" \
            "  conda install -c conda-forge 'python>=3.11' 'opencv=4' libjpeg-turbo pkg-config cxx-compiler" \
            "and type the command again."
    fi
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null || ! { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
            fail "system packages are missing and this user cannot install them. Ask an administrator for:" "  ${install[*]}"
        fi
        as_root=(sudo "${as_root[@]}")
    fi
    say "installing system packages with apt (FFCV is built against them; a minute or two): $*"
    # A failed update (one broken third-party list, say) matters only if the packages are then not found.
    "${as_root[@]}" apt-get update -qq >"$log" 2>&1 || true
    "${as_root[@]}" "${install[@]}" -qq -o DPkg::Lock::Timeout=300 >>"$log" 2>&1 || fail_with_log "\`${install[*]}\` failed"
}

install_python_packages() {
    local pip=(.venv/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt)
    say "installing Python packages into .venv (the first time a download of about 3 GB, torch with CUDA; 6 GB on disk)"
    # Source packages (FFCV) are built with the pinned setuptools, hence no build isolation.
    "${pip[@]}" pip setuptools
    PYTHONWARNINGS=ignore "${pip[@]}" --no-build-isolation --editable '.[ffcv,test]'
    .venv/bin/python -c 'import ffcv.libffcv' >"$log" 2>&1 || fail_with_log "FFCV was built but cannot be imported"
}

say() { echo "sparselt: $*"; }

fail() {
    printf 'sparselt: %s\n' "$1" >&2
    shift
    [ $# = 0 ] || printf '%s\n' "$@" >&2
    exit 1
}

fail_with_log() {
    tail -n 30 "$log" >&2
    fail "$1 (above: the end of what it printed)."
}

main
