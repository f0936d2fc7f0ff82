#!/usr/bin/env bash
# What `make test-clients` needs from the system: Orthanc with its DICOMweb plugin, Chromium and nginx, as Debian packages
# them. Where there is an npm, also axe-core, which looks for faults of accessibility.
set -euo pipefail

orthanc_there() {
    PATH="$PATH:/usr/sbin" command -v Orthanc >/dev/null &&
        compgen -G '/usr/share/orthanc/plugins/libOrthancDicomWeb.so*' >/dev/null
}
browser_there() {
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null
}
nginx_there() {
    PATH="$PATH:/usr/sbin" command -v nginx >/dev/null
}

# One file of one package, by its hash; without it, the tests of accessibility are skipped.
AXE=axe-core-4.14.1.tgz
AXE_SHA256=e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745
fetch_axe() {
    local folder=.artifacts/npm/node_modules/axe-core
    [ ! -f "$folder/axe.min.js" ] && command -v npm >/dev/null || return 0
    mkdir -p "$folder"
    (cd .artifacts/npm && npm pack axe-core@4.14.1 --silent >/dev/null && echo "$AXE_SHA256  $AXE" | sha256sum -c --quiet &&
        tar -xzf "$AXE" -C node_modules/axe-core --strip-components=1 package/axe.min.js package/LICENSE) ||
        echo 'axe-core could not be fetched: the tests of accessibility are skipped.' >&2
}
fetch_axe

packages=()
orthanc_there || packages+=(orthanc orthanc-dicomweb)
browser_there || packages+=(chromium)
nginx_there || packages+=(nginx-light)
[ "${#packages[@]}" -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "Install these with the package manager of this system: ${packages[*]}" >&2
    exit 1
fi
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
# The packages of Orthanc and nginx start services; the tests start both themselves, on free ports.
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -q --no-install-recommends
    "${packages[@]}")
"${install[@]}" || { "${as_root[@]}" apt-get update -q && "${install[@]}"; }
orthanc_there || { echo 'Orthanc was installed, but its DICOMweb plugin is not where it is expected.' >&2; exit 1; }
browser_there || { echo 'Chromium was installed, but there is no program of that name.' >&2; exit 1; }
