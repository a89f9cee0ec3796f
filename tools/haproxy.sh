#!/bin/sh
# Installs Debian's HAProxy for the tests behind it, where this user may. They are skipped, loudly, without it.
# The tests run it themselves; Debian's own service listens nowhere.
set -eu
installed() {
    command -v haproxy >/dev/null || [ -x /usr/sbin/haproxy ]
}
if installed; then
    exit 0
fi
as_root=
[ "$(id -u)" = 0 ] || as_root="sudo -n"

install_it() {
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends haproxy
}

if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
    echo "Installing Debian's HAProxy for the tests behind it …"
    install_it >/dev/null 2>&1 || true
fi
installed ||
    echo "######## HAProxy could not be installed: the tests behind it will be SKIPPED ########"
