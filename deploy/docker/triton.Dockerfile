# syntax=docker/dockerfile:1
# NVIDIA's Triton with our backend around our vLLM, for GPUs: docker compose --profile gpu build triton
# The digest has no default, because it could not be looked up where this file was written: docs/gpu.md says how to.
ARG TRITON_TAG=26.02-py3
ARG TRITON_DIGEST
FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG}@${TRITON_DIGEST}

# Triton's Python stub is built for the Python of this image; the lock is for the same.
COPY requirements/uv.txt requirements/engine-gpu.txt requirements/audit.txt /slipway/requirements/
ENV VIRTUAL_ENV=/opt/engine PATH=/opt/engine/bin:/opt/tritonserver/bin:$PATH LC_ALL=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 HOME=/tmp UV_NO_CACHE=1
RUN /usr/bin/python3 -c 'import sys; assert sys.version_info[:2] == (3, 12), f"the lock is for Python 3.12, not {sys.version}"' \
 && /usr/bin/python3 -m pip install --no-cache-dir --break-system-packages --require-hashes --requirement /slipway/requirements/uv.txt \
 && uv venv --python /usr/bin/python3 /opt/engine \
 && uv pip install --no-deps --require-hashes --requirement /slipway/requirements/engine-gpu.txt
# The bill of materials (CycloneDX) of that environment.
RUN uv venv --python /usr/bin/python3 /inventory \
 && uv pip install --python /inventory --no-deps --require-hashes --requirement /slipway/requirements/audit.txt \
 && mkdir -p /usr/share/slipway \
 && /inventory/bin/cyclonedx-py environment --output-format JSON --spec-version 1.6 --output-reproducible \
      --output-file /usr/share/slipway/sbom.cdx.json /opt/engine/bin/python \
 && rm -r /inventory

# The same copy of the backends as `slipway up` makes; without the toy engine.
COPY decisions /slipway/decisions
COPY deploy /slipway/deploy
COPY shared /slipway/shared
RUN cd /slipway && python -c 'from pathlib import Path; from deploy.local.triton import copy_backends; copy_backends(Path("/opt/tritonserver/backends"))' \
 && rm -r /opt/tritonserver/backends/toy
WORKDIR /slipway
USER 10001:10001
