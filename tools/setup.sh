#!/bin/sh
# Makes .venv and installs rtcbridge into it, with the extra that is named (demo or dev).
# Does nothing when that was done before and nothing has changed since.
set -eu
cd "$(dirname "$0")/.."
extra=${1:-demo}

fail() {
    echo "rtcbridge: $*" >&2
    exit 1
}

find_python() {
    for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    python=$(find_python) || fail "Python 3.11 or newer is missing: apt install python3 python3-venv"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "Python's venv is missing: apt install python3-venv"
    echo "Making .venv with $("$python" --version) …"
    rm -rf .venv
    "$python" -m venv .venv || fail "$python could not make .venv"
fi

stamp=.venv/installed-$extra
want=$(cat pyproject.toml constraints.txt | cksum)
for done in "$stamp" .venv/installed-dev; do # what the tests need includes what the demo needs
    if [ "$(cat "$done" 2>/dev/null)" = "$want" ]; then
        exit 0
    fi
done
echo "Installing rtcbridge and what it needs (about a minute) …"
.venv/bin/python -m pip install --disable-pip-version-check \
    -c constraints.txt -e ".[$extra]" >.venv/install.log 2>&1 &
pip=$!
trap 'kill $pip 2>/dev/null || true' INT TERM
shown=0
while kill -0 $pip 2>/dev/null; do
    sleep 1
    now=$(grep -c '^Collecting' .venv/install.log || true)
    if [ "$now" != "$shown" ]; then
        shown=$now
        echo "  $(grep '^Collecting' .venv/install.log | tail -n 1 | cut -d' ' -f2) ($shown)"
    fi
done
wait $pip || {
    grep -i '^error' .venv/install.log | head -n 3 >&2
    fail "the installation failed; its log is .venv/install.log"
}
echo "$want" >"$stamp"
echo "Installed."
