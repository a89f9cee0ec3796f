#!/bin/sh
# Installs Debian's Firefox for the browser tests, where this user may. Those in it are skipped, loudly, without it.
set -eu
if command -v firefox-esr >/dev/null; then
    exit 0
fi
as_root=
[ "$(id -u)" = 0 ] || as_root="sudo -n"
if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
    echo "Installing Debian's Firefox for the browser tests …"
    { $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq firefox-esr; } \
        >/dev/null 2>&1 || true
fi
command -v firefox-esr >/dev/null ||
    echo "######## firefox-esr could not be installed: the tests in Firefox will be SKIPPED ########"
