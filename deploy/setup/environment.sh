#!/usr/bin/env bash
# Makes one of the two environments from its pinned requirements, or says that it is already there.
#   environment.sh main|engine
# pip's find-links, index and constraint settings are honoured, because uv does not read them itself.
set -euo pipefail
cd "$(dirname "$0")/../.."

name=${1:?main or engine}
case $name in
  main) target=.venv ;;
  engine) target=.venv-engine ;;
  *) echo "environment.sh: main or engine, not '$name'" >&2; exit 2 ;;
esac
python=$(command -v python3.11 || command -v python3)
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
  echo "Slipway needs Python 3.11; $python is $("$python" --version). Install python3.11 and try again." >&2; exit 1
}

stamp=$target/.stamp-$(cat requirements/$name.txt requirements/$name-overrides.txt pyproject.toml deploy/setup/environment.sh | sha256sum | cut -c1-16)
if [ -e "$stamp" ]; then echo "environment $target is up to date"; exit 0; fi

uv=.tools/bin/uv
if [ ! -x $uv ]; then
  echo "installing uv into .tools"
  "$python" -m venv .tools
  .tools/bin/pip install --quiet --disable-pip-version-check 'uv==0.13.9'
fi

pip_setting() { "$python" -m pip config get "global.$1" 2>/dev/null || true; }
links=${PIP_FIND_LINKS:-$(pip_setting find-links)}
index=${PIP_INDEX_URL:-$(pip_setting index-url)}
constraint=${PIP_CONSTRAINT:-$(pip_setting constraint)}
if [ -n "$links" ]; then export UV_FIND_LINKS=$links; fi
if [ -n "$index" ]; then export UV_DEFAULT_INDEX=$index; fi
if [ -n "$constraint" ]; then export UV_CONSTRAINT=$constraint; fi

echo "making $target from requirements/$name.txt (about 2 GB; a few minutes the first time)"
$uv venv --quiet --clear --python "$python" $target
# compiled once here: processes that may not write bytecode would otherwise compile torch at every start
$uv pip install --compile-bytecode --python $target --override requirements/$name-overrides.txt -r requirements/$name.txt
if [ "$name" = main ]; then
  $uv pip install --quiet --python $target --no-deps --no-build-isolation -e .
fi
touch "$stamp"
echo "environment $target is ready"
