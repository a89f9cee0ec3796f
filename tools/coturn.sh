#!/bin/sh
# Installs Debian's coturn for the tests through it, where this user may. They are skipped, loudly, without it.
# The tests run it themselves; Debian's own service is switched off again.
set -eu
installed() {
    command -v turnserver >/dev/null
}
if installed; then
    exit 0
fi
as_root=
[ "$(id -u)" = 0 ] || as_root="sudo -n"

install_it() {
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends coturn
    $as_root systemctl disable --now coturn || true
}

if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
    echo "Installing Debian's coturn for the tests through it …"
    install_it >/dev/null 2>&1 || true
fi
installed ||
    echo "######## coturn could not be installed: the tests through it will be SKIPPED ########"
