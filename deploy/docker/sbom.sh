#!/bin/sh
# Writes the bill of materials of the environment /opt/slipway to /sbom.cdx.json; runs in stages of the Dockerfile.
exec /inventory/bin/cyclonedx-py environment --output-format JSON --spec-version 1.6 --output-reproducible \
  --output-file /sbom.cdx.json /opt/slipway/bin/python
