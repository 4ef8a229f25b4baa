#!/usr/bin/env bash
# Resolves requirements/*.in into the pinned files again; torch and its CUDA packages stay unpinned on purpose,
# because they differ between its builds.
set -euo pipefail
cd "$(dirname "$0")/../.."
pin() { # inputs, name
  .tools/bin/uv pip compile --quiet --python-version 3.11 --no-header --no-annotate \
    --override "requirements/$2-overrides.txt" "requirements/$1.in" |
    sed -E 's/^torch==.*/torch>=2.13,<2.14/; s/^torchvision==.*/torchvision>=0.28,<0.29/' |
    grep -vE '^(nvidia-(cu|nccl|nv(jitlink|shmem|tx))|cuda-)' >"requirements/$2.txt"
}
pin dev main
pin engine engine
.tools/bin/uv pip compile --quiet --python-version 3.12 --python-platform x86_64-manylinux_2_28 --no-header --no-annotate \
  --override requirements/engine-gpu-overrides.txt requirements/engine-gpu.in |
  grep -vE '^(nvidia-(cu|nccl|nv(jitlink|shmem|tx))|cuda-)' >requirements/engine-gpu.txt # torch names these exactly
