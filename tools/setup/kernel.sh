#!/bin/bash
# Fetches Debian's user-mode Linux, a kernel that runs as a program, into .cache/kernel: for tests of what the running
# kernel may be built without (project quotas). Needs neither KVM nor root's rights to run. Nothing is installed on the
# machine. Debian has it for amd64.
set -euo pipefail

modules=(overlay erofs libcrc32c loop quota_tree quota_v2 fuse)

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
kernel=$PWD/.cache/kernel

inputs=$({ dpkg --print-architecture; cat tools/setup/kernel.sh; } | sha256sum)
if [[ "$(cat "$kernel/inputs" 2>/dev/null)" == "$inputs" ]]; then
    exit 0
fi
if [[ "$(dpkg --print-architecture)" != amd64 ]]; then
    echo "setup: Debian has no user-mode Linux for $(dpkg --print-architecture): tests that need it fail" >&2
    exit 0
fi
echo "setup: user-mode Linux into .cache/kernel"
rm -rf "$kernel.new"
mkdir -p "$kernel.new/modules"
cd "$kernel.new"
fetch=(apt-get --quiet --quiet -o Acquire::Retries=3 -o APT::Sandbox::User=root download user-mode-linux)
"${fetch[@]}" 2>/dev/null || { apt-get --quiet -o Acquire::Retries=3 update && "${fetch[@]}"; }
dpkg --extract user-mode-linux_*.deb root
mv root/usr/bin/linux.uml linux
for module in "${modules[@]}"; do # those that Debian built into it are no files
    for file in $(find root/usr/lib/uml -name "$module.ko*"); do
        mv "$file" modules/
    done
done
find modules -name '*.xz' -exec xz --decompress {} +
find modules -name '*.zst' -exec zstd --quiet --decompress --rm {} +
rm -rf root user-mode-linux_*.deb
echo "${modules[*]}" >order
echo "$inputs" >inputs
rm -rf "$kernel"
mv "$kernel.new" "$kernel"
