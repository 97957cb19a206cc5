#!/bin/bash
# Fetches the programs that tests compare with and that Debian has in sid only (mkcomposefs, composefs-info,
# mount.composefs, oras, promtool alone) into .cache/oracles. Nothing is installed on the machine: apt runs with a private
# source list and state, packages are unpacked, and wrappers in .cache/oracles/bin start the programs with sid's own
# loader and libraries. The mirror is the one the machine's apt uses; DEBIAN_MIRROR overrides it.
set -euo pipefail

packages=(composefs oras promtool libcomposefs1 libssl3t64 libc6 libzstd1 zlib1g)
programs=(mkcomposefs composefs-info mount.composefs oras promtool)

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
oracles=$PWD/.cache/oracles
work=$oracles.new

inputs=$({ dpkg --print-architecture; cat tools/setup/oracles.sh; } | sha256sum)
if [[ "$(cat "$oracles/inputs" 2>/dev/null)" == "$inputs" ]]; then
    exit 0
fi
echo "setup: ${programs[*]} from Debian sid into .cache/oracles"

mirror_of_this_machine() {
    # REPO_URI, ORIGIN and LABEL are fields that apt expands, not variables of this shell.
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
        sed -n 's/^Debian|Debian|//p' | head -n 1
}

mirror=${DEBIAN_MIRROR:-$(mirror_of_this_machine)}
if [[ -z "$mirror" && $EUID -eq 0 ]]; then
    apt-get --quiet -o Acquire::Retries=3 update # index files were never fetched, or removed to save space
    mirror=$(mirror_of_this_machine)
fi
if [[ -z "$mirror" ]]; then
    echo "setup: apt knows no Debian mirror here; set DEBIAN_MIRROR to the URI of one" >&2
    exit 1
fi

rm -rf "$work"
mkdir -p "$work"/{apt/lists/partial,apt/archives/partial,apt/none,packages,root,bin}
: >"$work/apt/status"
# Signatures are checked; age is not, as a mirror that is frozen or lags serves a comparison as well.
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$work/apt/sources.list"
apt=(
    apt-get --quiet --quiet
    -o Dir::State::Lists="$work/apt/lists"
    -o Dir::State::Status="$work/apt/status"
    -o Dir::Cache="$work/apt"
    -o Dir::Etc::SourceList="$work/apt/sources.list"
    -o Dir::Etc::SourceParts="$work/apt/none"
    -o Dir::Etc::Preferences="$work/apt/none/preferences"
    -o Dir::Etc::PreferencesParts="$work/apt/none"
    -o Acquire::Check-Valid-Until=false
    -o Acquire::Languages=none
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
    -o Acquire::Retries=3
    -o APT::Sandbox::User=root
)
"${apt[@]}" update
(cd "$work/packages" && "${apt[@]}" download "${packages[@]}")
for package in "$work"/packages/*.deb; do
    dpkg --extract "$package" "$work/root"
done
rm -rf "$work/apt" "$work/packages"

cd "$work"
loader=$(echo root/usr/lib/*-linux-gnu/ld-linux-*.so.*)
for program in "${programs[@]}"; do
    binary=$(find root -path "*bin/$program" -print -quit)
    cat >"bin/$program" <<WRAPPER
#!/bin/sh
here=\$(dirname "\$(dirname "\$(readlink -f "\$0")")")
exec "\$here/$loader" --library-path "\$here/${loader%/*}" "\$here/$binary" "\$@"
WRAPPER
    chmod 755 "bin/$program"
    "${loader}" --library-path "${loader%/*}" --list "$binary" >list 2>&1 || { cat list >&2; exit 1; }
done
rm list
bin/oras version >/dev/null
echo "$inputs" >inputs
rm -rf "$oracles"
mv "$work" "$oracles"
