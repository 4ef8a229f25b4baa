#!/bin/sh
# multiprocessing takes this for the interpreter; engine_child.py ties the process to its parent and becomes the real one.
exec "$SLIPWAY_ENGINE_PYTHON" -S -E "$(dirname "$0")/engine_child.py" "$@"
