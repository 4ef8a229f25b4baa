#!/bin/sh
# Starts a container that holds one program, without an image; ends with an error that says what to do if podman cannot.
set -eu
export PODMAN_IGNORE_CGROUPSV1_WARNING=1 PATH="$PATH:/usr/libexec/podman:/usr/lib/podman"
packages="podman buildah crun runc catatonit netavark aardvark-dns nftables mmdebstrap docker-compose"
for program in podman catatonit; do
  command -v "$program" >/dev/null || {
    echo "$program is not installed. On Debian: apt-get install --no-install-recommends $packages" >&2
    exit 1
  }
done
root=$(mktemp --directory)
trap 'rm -r "$root"' EXIT
cp "$(command -v catatonit)" "$root/program"
start() { podman "$@" run --rm --network none --rootfs "$root" /program -V; }
error=$(start 2>&1) && exit 0
echo "podman cannot start a container: $error" >&2
if runc_error=$(start --runtime runc 2>&1); then
  printf '%s\n' 'With runc it can. Write to /etc/containers/containers.conf:' '  [engine]' '  runtime = "runc"' >&2
elif command -v runc >/dev/null; then
  echo "With runc it cannot either: $runc_error" >&2
else
  echo "Another runtime may: apt-get install --no-install-recommends runc, then run this again." >&2
fi
exit 1
