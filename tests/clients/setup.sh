#!/usr/bin/env bash
# What `make test-clients` needs from the system: Orthanc with its DICOMweb plugin, Chromium and nginx, as Debian packages
# them.
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
