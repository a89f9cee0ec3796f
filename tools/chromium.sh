#!/bin/sh
# Installs Debian's chromium for the browser tests, where this user may. They are skipped, loudly, without it.
set -eu
if command -v chromium >/dev/null; then
    exit 0
fi
as_root=
[ "$(id -u)" = 0 ] || as_root="sudo -n"
if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
    echo "Installing Debian's chromium for the browser tests …"
    { $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } \
        >/dev/null 2>&1 || true
fi
command -v chromium >/dev/null ||
    echo "######## chromium could not be installed: the browser tests will be SKIPPED ########"
