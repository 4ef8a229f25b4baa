#!/usr/bin/env bash
# Builds images with podman, and prints their sizes and times: images.sh [TARGET…]; without one, all that need no registry of
# images and no GPU, but for triton-vllm, which has gigabytes. Their names are localhost/slipway-TARGET:VERSION, which compose.yaml uses.
#   PYTHON_IMAGE, BUILD_IMAGE   the bases, instead of the stand-ins of local-base.sh (default: Dockerfile's, where they can be pulled)
#   PIP_INDEX_URL               the package index; PIP_FIND_LINKS: a folder with wheels of torch for CPUs; PIP_CERT: certificates to trust
# With docker instead of podman: docker compose build.
set -euo pipefail
cd "$(dirname "$0")/../.."

export PODMAN_IGNORE_CGROUPSV1_WARNING=1
deploy/docker/check-podman.sh
light_mb=250 # the most that an image without torch, Evidently or a server has
version=$(sed -n 's/^VERSION = "\(.*\)"$/\1/p' contracts/version.py)
mapfile -t all < <(sed -n 's/^      target: //p' compose.yaml deploy/docker/compose.*.yaml | grep -vE '^(minio|triton-vllm)$|\.' | sort -u)
if [ $# -eq 0 ]; then set -- "${all[@]}"; fi

options=(--format docker --layers --network host --quiet --ulimit nofile=20000:20000 --ulimit nproc=90000:90000)
if [ -z "${PYTHON_IMAGE:-}" ] && ! podman pull --quiet "docker.io/library/$(sed -n 's/^ARG PYTHON_IMAGE=//p' deploy/docker/Dockerfile)" >/dev/null 2>&1; then
  echo "the base images cannot be pulled: packages of Debian stand in for them (deploy/docker/local-base.sh)"
  deploy/docker/local-base.sh
  PYTHON_IMAGE=localhost/slipway-base:debian13 BUILD_IMAGE=localhost/slipway-build:debian12
fi
if [ -n "${PYTHON_IMAGE:-}" ]; then
  # MinIO's stage is not built here, but its image would be asked for
  options+=(--build-arg "PYTHON_IMAGE=$PYTHON_IMAGE" --build-arg "BUILD_IMAGE=${BUILD_IMAGE:-$PYTHON_IMAGE}" --build-arg "MINIO_IMAGE=$PYTHON_IMAGE")
fi
temporary=$(mktemp --directory)
trap 'rm -r "$temporary"' EXIT
log=$temporary/log
if [ -n "${PIP_INDEX_URL:-}" ]; then
  printf 'index-url = "%s"\n' "$PIP_INDEX_URL" >"$temporary/uv.toml"
  printf '[global]\nindex-url = %s\n' "$PIP_INDEX_URL" >"$temporary/pip.conf"
  options+=(--volume "$temporary/uv.toml:/etc/uv/uv.toml:ro" --volume "$temporary/pip.conf:/etc/pip.conf:ro")
fi
if [ -n "${PIP_CERT:-}" ]; then options+=(--volume "$PIP_CERT:/etc/ssl/certs/ca-certificates.crt:ro"); fi
if compgen -G "${PIP_FIND_LINKS:-/nowhere}/torch-*+cpu-cp311-*.whl" >/dev/null; then
  options+=(--volume "$PIP_FIND_LINKS:/wheels:ro" --build-arg UV_FIND_LINKS=/wheels --build-arg TORCH_SOURCE=--no-index)
fi

for target in "$@"; do
  began=$SECONDS
  name=localhost/slipway-$target:$version
  podman build "${options[@]}" --build-arg "SLIPWAY_VERSION=$version" --file deploy/docker/Dockerfile --target "$target" --tag "$name" . \
    >"$log" 2>&1 || { tail -n 60 "$log" >&2; exit 1; }
  size=$(podman image inspect --format '{{.Size}}' "$name" | awk '{printf "%.0f", $1 / 1e6}')
  printf '%-52s %5d MB %5d s\n' "$name" "$size" $((SECONDS - began))
  case $target in
  merger | quantiser | monitor | seaweedfs | triton*) ;; # torch, Evidently, a server, an engine
  *) if ((size > light_mb)); then echo "  $target has more than the $light_mb MB of a light image: what did it add? (podman history $name)"; fi ;;
  esac
done
