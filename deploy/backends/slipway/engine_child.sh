#!/bin/sh
# multiprocessing runs this as its interpreter; engine_child.py ties the process to its parent and executes the real one.
exec "$SLIPWAY_ENGINE_PYTHON" -S -E "$(dirname "$0")/engine_child.py" "$@"
