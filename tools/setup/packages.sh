#!/bin/bash
# Installs the Debian packages that the project, its tests and its demo use, and only those that are missing.
# With the argument 'bench', those of the benchmark too. Package names are the same in Debian 12 and 13. Needs root when something is missing, nothing otherwise.
set -euo pipefail

packages=(
    ca-certificates  # TLS for pip
    python3-venv     # the virtual environment

    podman           # containers
    conmon
    crun             # OCI runtimes: the hook is tested with those that run on the machine
    runc
    catatonit        # the pause process of pods
    netavark         # container networks, with the firewall tool each release's netavark calls
    iptables
    nftables
    busybox-static   # content of the test images

    docker-registry  # the registry server that tests and demo start on loopback
    skopeo           # other people's readers of what push and export write
    umoci
    xz-utils
    zstd

    acl              # tests read and write ACLs, xattrs and file systems with the usual tools
    attr
    b3sum
    e2fsprogs
    mount
    procps
    strace           # kills at a chosen system call (crash tests)
    util-linux
)

if [[ "${1:-}" == bench ]]; then
    packages+=(borgbackup casync fio git ostree restic) # what 'make bench' compares with
fi

missing=()
for package in "${packages[@]}"; do
    if [[ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]]; then
        missing+=("$package")
    fi
done
if [[ ${#missing[@]} -eq 0 ]]; then
    exit 0
fi

echo "setup: Debian packages to install: ${missing[*]}"
if ! command -v apt-get >/dev/null; then
    echo "setup: there is no apt-get here; set-up is for Debian 12 and 13 (see README.md for what is needed)" >&2
    exit 1
fi
if [[ $EUID -ne 0 ]]; then
    echo "setup: installing packages needs root: run 'make setup' as root once" >&2
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
apt=(apt-get --quiet --yes -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
"${apt[@]}" update
"${apt[@]}" install --no-install-recommends "${missing[@]}"

# Debian starts the registry as a service on port 5000. Tests and demo start their own on a free loopback port.
if [[ " ${missing[*]} " == *" docker-registry "* ]]; then
    invoke-rc.d docker-registry stop
    update-rc.d docker-registry disable
fi
