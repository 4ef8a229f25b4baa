#!/usr/bin/env bash
# Makes one of the two environments from its pinned requirements, or says that it is already there.
#   environment.sh main|engine [INTERPRETER]
# Takes the first interpreter on PATH that fits; where none does, uv downloads Python 3.11 into .tools. An environment of
# a given INTERPRETER is made beside the usual one, as .venv-python3.13.
# pip's find-links, index and constraint settings are honoured, because uv does not read them itself.
set -euo pipefail
cd "$(dirname "$0")/../.."

name=${1:?main or engine}
case $name in
  main) target=.venv versions='3.11 3.12 3.13' ;;
  engine) target=.venv-engine versions='3.11 3.12' ;; # numpy 1.26, which Triton needs, has no wheel for 3.13
  *) echo "environment.sh: main or engine, not '$name'" >&2; exit 2 ;;
esac

given=${2:-}
if [ -n "$given" ]; then target=$target-$(basename "$given"); fi

stamp=$target/.stamp-$(cat requirements/$name.txt requirements/$name-overrides.txt pyproject.toml deploy/setup/environment.sh | sha256sum | cut -c1-16)
if [ -e "$stamp" ]; then echo "environment $target is up to date"; exit 0; fi

find_python() { # versions, the best first
  local version candidate
  for version in $1; do
    for candidate in "python$version" python3; do
      if [ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true)" = "$version" ]; then
        command -v "$candidate"
        return
      fi
    done
  done
}

uv=.tools/bin/uv
if [ ! -x $uv ]; then
  any=$(find_python '3.11 3.12 3.13 3.14 3.10 3.9')
  if [ -z "$any" ]; then echo "Slipway needs Python 3.11, 3.12 or 3.13; install one and try again." >&2; exit 1; fi
  echo "installing uv into .tools"
  "$any" -m venv .tools || {
    rm -rf .tools
    echo "$any cannot make a virtual environment; install its venv module (Debian: python3-venv) and try again." >&2
    exit 1
  }
  .tools/bin/pip install --quiet --disable-pip-version-check 'uv==0.13.9'
fi

pip_setting() { .tools/bin/python -m pip config get "global.$1" 2>/dev/null || true; }
links=${PIP_FIND_LINKS:-$(pip_setting find-links)}
index=${PIP_INDEX_URL:-$(pip_setting index-url)}
constraint=${PIP_CONSTRAINT:-$(pip_setting constraint)}
if [ -n "$links" ]; then export UV_FIND_LINKS=$links; fi
if [ -n "$index" ]; then export UV_DEFAULT_INDEX=$index; fi
if [ -n "$constraint" ]; then export UV_CONSTRAINT=$constraint; fi

python=${given:-$(find_python "$versions")}
if [ -z "$python" ]; then
  echo "none of Python ${versions// /, } is installed; downloading Python 3.11 into .tools"
  export UV_PYTHON_INSTALL_DIR=$PWD/.tools/python
  $uv python install --quiet 3.11 || {
    echo "Python 3.11 could not be downloaded; install one of Python ${versions// /, } and try again." >&2
    exit 1
  }
  python=$($uv python find --managed-python 3.11)
fi

echo "making $target with $python from requirements/$name.txt (about 2 GB; a few minutes the first time)"
$uv venv --quiet --clear --python "$python" $target
# compiled once here: processes that may not write bytecode would otherwise compile torch at every start
$uv pip install --compile-bytecode --python $target --override requirements/$name-overrides.txt -r requirements/$name.txt
if [ "$name" = main ]; then
  $uv pip install --quiet --python $target --no-deps --no-build-isolation -e .
fi
touch "$stamp"
echo "environment $target is ready"
