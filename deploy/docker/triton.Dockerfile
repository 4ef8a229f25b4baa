# syntax=docker/dockerfile:1
# NVIDIA's Triton with our backend around our vLLM, for GPUs: docker compose --profile gpu build triton
# The digest has no default, because it could not be looked up where this file was written: docs/gpu.md says how to.
ARG TRITON_TAG=26.02-py3
ARG TRITON_DIGEST
FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG}@${TRITON_DIGEST}

# Triton's Python stub is built for the Python of this image; the pins are for the same.
COPY requirements/engine-gpu.txt /slipway/requirements/engine-gpu.txt
ENV VIRTUAL_ENV=/opt/engine PATH=/opt/engine/bin:/opt/tritonserver/bin:$PATH LC_ALL=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
RUN /usr/bin/python3 -c 'import sys; assert sys.version_info[:2] == (3, 12), f"the pins are for Python 3.12, not {sys.version}"' \
 && /usr/bin/python3 -m pip install --no-cache-dir --break-system-packages uv==0.13.9 \
 && uv venv --python /usr/bin/python3 /opt/engine \
 && uv pip install --no-cache --requirement /slipway/requirements/engine-gpu.txt

# The same copy of the backends as `slipway up` makes; without the toy engine.
COPY decisions /slipway/decisions
COPY deploy /slipway/deploy
COPY shared /slipway/shared
RUN cd /slipway && python -c 'from pathlib import Path; from deploy.local.triton import copy_backends; copy_backends(Path("/opt/tritonserver/backends"))' \
 && rm -r /opt/tritonserver/backends/toy
WORKDIR /slipway
