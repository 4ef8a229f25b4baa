#!/usr/bin/env bash
# Writes the bill of materials (CycloneDX 1.6, JSON) of environments into dist/sbom: sbom.sh [main|engine|audit]…
# The writer checks it against CycloneDX's schema. Images hold their own: deploy/docker/Dockerfile.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ $# -eq 0 ]; then set -- main engine; fi
mkdir -p dist/sbom
for name in "$@"; do
  case $name in
    main) folder=.venv about=(--pyproject pyproject.toml --mc-type application) ;;
    engine | audit) folder=.venv-$name about=() ;;
    *) echo "sbom.sh: main, engine or audit, not '$name'" >&2; exit 2 ;;
  esac
  file=dist/sbom/$name.cdx.json
  .venv-audit/bin/python -W ignore::UserWarning -m cyclonedx_py environment "${about[@]}" --output-format JSON \
    --spec-version 1.6 --output-reproducible --output-file "$file.part" "$folder/bin/python"
  mv "$file.part" "$file"
  echo "$file"
done
