#!/usr/bin/env bash
# Builds the wheels of `slipway` and `slipway-client` from the files that git knows: wheels.sh [FOLDER] (default: dist).
# The build tools are those of requirements/build.txt, by their hashes; the same commit gives the same bytes.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=$(realpath -m "${1:-dist}")
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
git ls-files -z --cached --others --exclude-standard -- contracts decisions shared services clients deploy \
  requirements pyproject.toml README.md LICENSE | xargs -0 cp --parents -t "$source"
rm "$source/clients/training/setup.py" # builds slipway-client; slipway's copy of the client is not built by it
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
mkdir -p "$out"
rm -f "$out"/slipway-*.whl "$out"/slipway_client-*.whl
build() { # folder
  .tools/bin/uv build --quiet --wheel --no-config --require-hashes --build-constraints requirements/build.txt \
    --out-dir "$out" "$1"
}
build "$source"
cp LICENSE clients/training/setup.py "$source/clients/training/"
build "$source/clients/training"
# the locks of both environments, for machines without a checkout (docs/get-started.md)
cat requirements/main.txt requirements/torch-cuda.txt >"$out/slipway-main.txt"
cat requirements/engine.txt requirements/torchvision-cuda.txt >"$out/slipway-engine.txt"
ls "$out"/slipway*
