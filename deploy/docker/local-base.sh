#!/bin/sh
# Makes the images that stand in for Python's where no image can be pulled, from packages of Debian:
#   local-base.sh [DEBIAN_MIRROR]    without one: the mirror that apt uses
#   localhost/slipway-base:debian13   for PYTHON_IMAGE: Debian 13, whose C library builds of torch may need, with the Python
#                                     3.11 of Debian 12, whose versions the locks are for
#   localhost/slipway-build:debian12  for BUILD_IMAGE: Debian 12 with `strip`
# Images that are there stay. Needs root, mmdebstrap, podman, and a mirror of Debian.
set -eu
mirror=${1:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | grep -m 1 '^http')}
[ -n "$mirror" ] || { echo "local-base.sh: apt names no mirror of Debian here: name one, local-base.sh DEBIAN_MIRROR" >&2; exit 1; }
packages=usr-is-merged,ca-certificates,libgomp1,libpython3.11,libseccomp2,libstdc++6,passwd,python3.11

make() { # name, packages, suite, further sources
  name=localhost/slipway-$1
  include=$2 suite=$3
  shift 3
  if podman image exists "$name"; then echo "$name is there"; return; fi
  echo "making $name from packages of Debian: a minute or two, once"
  root=$(mktemp --suffix=.tar) log=$(mktemp)
  trap 'rm -f "$root" "$log"' EXIT
  mmdebstrap --variant=essential --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include="$include" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/lib/x86_64-linux-gnu/gconv/*' \
    --customize-hook='ln -s /usr/bin/python3.11 "$1/usr/local/bin/python"; ln -sf python3.11 "$1/usr/bin/python3"' \
    "$suite" "$root" "$@" >"$log" 2>&1 \
    || { cat "$log" >&2; exit 1; }
  podman import --quiet "$root" "$name" >/dev/null
  rm -f "$root" "$log"
  echo "$name: $(podman image inspect --format '{{.Size}}' "$name" | awk '{printf "%.0f MB", $1 / 1e6}')"
}

make base:debian13 "$packages" trixie "deb $mirror trixie main" "deb $mirror bookworm main"
make build:debian12 "$packages,python3.11-venv,binutils" bookworm "deb $mirror bookworm main"
