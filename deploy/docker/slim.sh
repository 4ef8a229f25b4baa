#!/bin/sh
# Removes from /opt/slipway what no program runs: tests and sources of extensions, and symbols where `strip` is there. Only
# the modules with many symbols are stripped: strip breaks libraries that a wheel's maker has patched, as those of numpy.
# Evidently's folder `tests` is a part of it: what it calls tests are checks of data.
set -e
cd /opt/slipway/lib/python*/site-packages
find . -type d \( -name tests -o -name SelfTest \) ! -path './evidently/*' -prune -exec rm -r {} +
find . -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.c' -o -name '*.h' -o -name '*.a' \) -delete
command -v strip >/dev/null || exit 0
for module in ml_dtypes uvloop rapidjson cryptography hf_xet; do
  find . -path "./$module*" -name '*.so' -exec strip --strip-unneeded {} +
  if [ -e "$module" ] || ls "$module".*.so >/dev/null 2>&1; then python -c "import $module"; fi
done
