#!/bin/bash
# Installs Debian packages that are missing: packages.sh install|demo|test|bench, each with what the ones before it need.
# Package names are the same in Debian 12 and 13, and none is of sid. Needs root when something is missing, nothing otherwise.
set -euo pipefail

purpose=${1:-demo}
packages=(
    ca-certificates  # TLS for pip
    python3
    python3-venv     # the virtual environment, and pip
)

demo=(
    podman           # containers
    conmon
    crun             # OCI runtimes: the hook is tested with those that run on the machine
    runc
    catatonit        # the pause process of pods
    uidmap           # user namespaces of ordinary users with more than one ID
    fuse3            # fusermount3, for what ordinary users mount where everybody sees it
    netavark         # container networks, with the firewall tool each release's netavark calls
    iptables
    nftables
    busybox-static   # content of the images
    docker-registry  # the registry server that tests and demo start on loopback
    mount
    procps
    util-linux
)

tests=(
    skopeo           # other people's readers of what push and export write
    umoci
    xz-utils
    zstd

    acl              # tests read and write ACLs, xattrs and file systems with the usual tools
    attr
    b3sum
    e2fsprogs
    xfsprogs
    strace           # kills at a chosen system call (crash tests)
    systemd          # reads the units
    containerd       # the container runtime of a Kubernetes node, which the CSI driver asks
    chromium         # opens the pages of 'stratum serve --web'
)

peers=(borgbackup casync fio git ostree restic) # what 'make bench' compares with

case $purpose in
    install) ;;
    demo) packages+=("${demo[@]}") ;;
    test) packages+=("${demo[@]}" "${tests[@]}") ;;
    bench) packages+=("${demo[@]}" "${tests[@]}" "${peers[@]}") ;;
    *) echo "setup: packages.sh knows install, demo, test and bench, not '$purpose'" >&2; exit 2 ;;
esac

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
    echo "setup: there is no apt-get here; install what provides: ${missing[*]}" >&2
    exit 1
fi
if [[ $EUID -ne 0 ]]; then
    echo "setup: installing packages needs root: as root, apt-get install ${missing[*]}" >&2
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
apt=(apt-get --quiet --yes -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
"${apt[@]}" update
"${apt[@]}" install --no-install-recommends "${missing[@]}"

# Debian starts these as services, the registry on port 5000. Tests and demo start their own, on a free loopback port.
if [[ " ${missing[*]} " == *" docker-registry "* ]]; then
    invoke-rc.d docker-registry stop
    update-rc.d docker-registry disable
fi
if [[ " ${missing[*]} " == *" containerd "* ]]; then
    deb-systemd-invoke stop containerd.service
    systemctl disable containerd.service
fi
