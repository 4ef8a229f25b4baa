#!/usr/bin/env bash
# Makes an environment from its lock, or says that it is already there. Each file that is installed has a hash in the lock.
#   environment.sh main|engine|audit|mlflow|wandb|charts|examples|client-oldest|client-newest [INTERPRETER]
# Takes the first interpreter on PATH, or of pyenv, that fits; where none does, uv downloads one into .tools. An environment
# of a given INTERPRETER is made beside the usual one, as .venv-python3.13.
# pip's find-links and index settings are honoured, because uv does not read them itself.
# torch is the CPU build of a folder that find-links names, if that has one whose hash is in requirements/torch-cpu.txt;
# else the build for CUDA of the package index. SLIPWAY_TORCH=cpu takes PyTorch's own CPU builds, SLIPWAY_TORCH=cuda the latter.
set -euo pipefail
cd "$(dirname "$0")/../.."

names='main, engine, audit, mlflow, wandb, charts, examples, client-oldest or client-newest'
name=${1:?$names}
download=3.11 build_tools=requirements/build.txt
case $name in
  main) target=.venv versions='3.11 3.12 3.13' torch=(torch) ;;
  engine) target=.venv-engine versions='3.11 3.12' torch=(torch torchvision) ;; # numpy 1.26 of Triton has no wheel for 3.13
  audit) target=.venv-audit versions='3.11 3.12 3.13' torch=() ;;
  mlflow) target=.venv-mlflow versions='3.11 3.12 3.13' torch=() ;;
  wandb) target=.venv-wandb versions='3.11 3.12 3.13' torch=() ;;
  charts) target=.venv-charts versions='3.11 3.12 3.13' torch=() ;;
  examples) target=.venv-examples versions='3.11 3.12 3.13' torch=(torch) ;;
  client-oldest) # its lock has a torch of its time
    target=.venv-client-oldest versions='3.9' torch=() download=3.9 build_tools=requirements/build-oldest.txt ;;
  client-newest) target=.venv-client-newest versions='3.11' torch=(torch) ;;
  *) echo "environment.sh: $names, not '$name'" >&2; exit 2 ;;
esac
build=${SLIPWAY_TORCH:-}
case $build in
  '' | cpu | cuda) ;;
  *) echo "environment.sh: SLIPWAY_TORCH is cpu, cuda or empty, not '$build'" >&2; exit 2 ;;
esac

given=${2:-}
if [ -n "$given" ]; then target=$target-$(basename "$given"); fi

inputs=("requirements/$name.txt" requirements/torch*.txt "$build_tools" pyproject.toml deploy/setup/environment.sh)
stamp=$target/.stamp-$({ echo "$build"; cat "${inputs[@]}"; } | sha256sum | cut -c1-16)
up_to_date() { if [ -e "$stamp" ]; then echo "environment $target is up to date"; exit 0; fi; }
up_to_date
if command -v flock >/dev/null; then # of two that begin at the same time, the second finds what the first has made
  exec 9<deploy/setup/environment.sh
  flock -n 9 || { echo "another process is making an environment here; waiting until it has"; flock 9; }
  up_to_date
fi

find_python() { # versions, the best first
  local version candidate
  for version in $1; do
    for candidate in "python$version" python3 ${PYENV_ROOT:+"$PYENV_ROOT"/versions/"$version".*/bin/python}; do
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
  .tools/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/uv.txt
fi

pip_setting() { .tools/bin/python -m pip config get "global.$1" 2>/dev/null || true; }
links=${PIP_FIND_LINKS:-$(pip_setting find-links)}
index=${PIP_INDEX_URL:-$(pip_setting index-url)}
if [ -n "$links" ]; then export UV_FIND_LINKS=$links; fi
if [ -n "$index" ]; then export UV_DEFAULT_INDEX=$index; fi
unset UV_CONSTRAINT UV_OVERRIDE # the lock has one version of each package; uv refuses others beside hashes

case $given in
  '') python=$(find_python "$versions") ;;
  python3.*) python=$(find_python "${given#python}") && python=${python:-$given} ;;
  *) python=$given ;;
esac
if [ -z "$python" ]; then
  echo "none of Python ${versions// /, } is installed; downloading Python $download into .tools"
  export UV_PYTHON_INSTALL_DIR=$PWD/.tools/python
  $uv python install --quiet "$download" || {
    echo "Python $download could not be downloaded; install one of Python ${versions// /, } and try again." >&2
    exit 1
  }
  python=$($uv python find --managed-python "$download")
fi

local_build() { # package: whether find-links has its CPU build for $python, with a hash that is in the lock
  local version folder file
  version=$("$python" -c 'import sys; print("%d%d" % sys.version_info[:2])' 2>/dev/null) || return 1
  for folder in $links; do
    for file in "${folder#file://}/$1"-*+cpu-cp"$version"-*.whl; do
      [ -f "$file" ] || continue
      if grep -q "$(sha256sum <"$file" | cut -d' ' -f1)" "requirements/$1-cpu.txt"; then return 0; fi
      echo "$file is not used: its hash is not in requirements/$1-cpu.txt"
    done
  done
  return 1
}

lock=cuda source=()
if [ "$build" = cpu ]; then
  lock=cpu source=(--default-index https://download.pytorch.org/whl/cpu)
elif [ -z "$build" ] && [ ${#torch[@]} -gt 0 ]; then
  lock=cpu source=(--no-index)
  for package in "${torch[@]}"; do
    local_build "$package" || lock=cuda source=()
  done
fi

install() { # what has another hash than the lock, or none, is refused
  # compiled once here: processes that may not write bytecode would otherwise compile torch at every start
  $uv pip install --compile-bytecode --no-deps --require-hashes --build-constraints $build_tools \
    --python "$target" "$@"
}

echo "making $target with $python from requirements/$name.txt (main and engine: about 2 GB each, examples and client-newest 1.4 GB, client-oldest 5 GB; a few minutes the first time)"
$uv venv --quiet --clear --python "$python" "$target"
for package in "${torch[@]}"; do install --quiet "${source[@]}" -r "requirements/$package-$lock.txt"; done
install -r "requirements/$name.txt"
if [ "$name" = main ]; then
  $uv pip install --quiet --python "$target" --no-deps --no-build-isolation -e .
fi
touch "$stamp"
echo "environment $target is ready"
