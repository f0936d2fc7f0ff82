#!/usr/bin/env bash
# What `make test-clients` needs from the system: Orthanc with its DICOMweb plugin, as Debian and Ubuntu package them.
set -euo pipefail

there() {
    PATH="$PATH:/usr/sbin" command -v Orthanc >/dev/null &&
        compgen -G '/usr/share/orthanc/plugins/libOrthancDicomWeb.so*' >/dev/null
}

there && exit 0
if ! command -v apt-get >/dev/null; then
    echo 'Orthanc and its DICOMweb plugin are needed: install them with the package manager of this system.' >&2
    exit 1
fi
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
# The packages start a service on port 8042; the tests start Orthanc themselves, on a free port.
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -q --no-install-recommends
    orthanc orthanc-dicomweb)
"${install[@]}" || { "${as_root[@]}" apt-get update -q && "${install[@]}"; }
there || { echo 'Orthanc was installed, but its DICOMweb plugin is not where it is expected.' >&2; exit 1; }
