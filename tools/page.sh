#!/bin/sh
# Builds the page if its sources have changed since it was built, or in any case with --build.
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ -x "$python" ] || python=python3
if [ "${1:-}" != --build ] && "$python" console/current.py >/dev/null 2>&1; then
    exit 0
fi
command -v npm >/dev/null || {
    echo "rtcbridge: the page's sources have changed and npm, which builds it, is missing: apt install npm" >&2
    exit 1
}
echo "Building the page …"
(cd sdk/js && npm ci --silent --no-audit --no-fund)
(cd console && npm ci --silent --no-audit --no-fund && npm run --silent build)
