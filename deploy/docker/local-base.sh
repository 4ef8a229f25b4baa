#!/bin/sh
# Makes the images that stand in for Python's where no image can be pulled, from packages of Debian 12 (Python 3.11):
#   local-base.sh [DEBIAN_MIRROR]
#   localhost/slipway-base:bookworm   for PYTHON_IMAGE: what python:3.11-slim has, as far as Slipway needs it
#   localhost/slipway-build:bookworm  for BUILD_IMAGE: the same with `strip`
# Images that are there stay. Needs root, mmdebstrap, podman, and a mirror of Debian.
set -eu
suite=bookworm
mirror=${1:-http://deb.debian.org/debian}
packages=usr-is-merged,ca-certificates,libgomp1,libpython3.11,libseccomp2,libstdc++6,passwd,python3,python3-venv

make() { # name, packages
  name=localhost/slipway-$1:$suite
  if podman image exists "$name"; then echo "$name is there"; return; fi
  root=$(mktemp --suffix=.tar) log=$(mktemp)
  trap 'rm -f "$root" "$log"' EXIT
  mmdebstrap --quiet --variant=essential --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include="$2" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/lib/x86_64-linux-gnu/gconv/*' \
    --customize-hook='ln -s /usr/bin/python3 "$1/usr/local/bin/python"' "$suite" "$root" "$mirror" >"$log" 2>&1 \
    || { cat "$log" >&2; exit 1; }
  podman import --quiet "$root" "$name" >/dev/null
  rm -f "$root" "$log"
  echo "$name: $(podman image inspect --format '{{.Size}}' "$name" | awk '{printf "%.0f MB", $1 / 1e6}')"
}

make base "$packages"
make build "$packages,binutils"
