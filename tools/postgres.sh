#!/bin/sh
# Installs Debian's PostgreSQL for the tests of that store, where this user may. They are skipped, loudly, without it.
# The tests run a server of their own; Debian's is kept from making and starting one.
set -eu
installed() {
    command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}
if installed; then
    exit 0
fi
as_root=
[ "$(id -u)" = 0 ] || as_root="sudo -n"
config=/etc/postgresql-common/createcluster.conf

install_it() {
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql-common
    $as_root cp "$config" "$config.rtcbridge"
    echo "create_main_cluster = false" | $as_root tee -a "$config"
    status=0
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql || status=$?
    $as_root mv "$config.rtcbridge" "$config"
    return $status
}

if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
    echo "Installing Debian's PostgreSQL for the tests of that store …"
    install_it >/dev/null 2>&1 || true
fi
installed ||
    echo "######## PostgreSQL could not be installed: the tests of that store will be SKIPPED ########"
