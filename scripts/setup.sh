#!/usr/bin/env bash
# Installs what a Debian 12 machine lacks to build, test and demonstrate Mnemosyne: packages by apt
# (as root, or through sudo), and a Python environment in .venv. Does nothing where all is there.
#
# usage: scripts/setup.sh [--tests]    --tests also installs what only the tests need
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
  ccache cmake g++ git libabsl-dev libbenchmark-dev libcli11-dev libeigen3-dev libfmt-dev
  libgrpc++-dev libprotobuf-dev libspdlog-dev libssl-dev libxxhash-dev ninja-build
  nlohmann-json3-dev patchelf pkg-config protobuf-compiler protobuf-compiler-grpc
  python3-grpcio python3-matplotlib python3-protobuf python3-sklearn python3-torch python3-venv
)
python_packages=()
# What a build for GPUs is made with, which has the tests, too.
command -v nvcc >/dev/null && packages+=(libgmock-dev libgtest-dev)
if [[ "${1:-}" == --tests ]]; then
  packages+=(clang-14 clang-format-14 libclang-rt-14-dev libgmock-dev libgtest-dev
    python3-pytest python3-yaml shellcheck)
  python_packages+=(ruff mypy buf-bin)
fi

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
    missing+=("$package")
done
if ((${#missing[@]})); then
  echo "setup: installing ${missing[*]}"
  as_root=()
  if [[ "$(id -u)" != 0 ]]; then
    command -v sudo >/dev/null || {
      echo "setup: these packages are missing and need root: apt-get install ${missing[*]}" >&2
      exit 1
    }
    as_root=(sudo)
  fi
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
    --no-install-recommends "${missing[@]}" >/dev/null
fi

# Debian's Python: another one on the path would not see Debian's torch.
if [[ ! -x .venv/bin/python ]]; then
  echo "setup: making the Python environment .venv"
  /usr/bin/python3 -m venv --system-site-packages .venv
fi
# install VENV STAMP PACKAGE...: installs packages once for each content of STAMP.
install() {
  local venv=$1 wanted=$2
  shift 2
  [[ "$(cat "$venv/installed" 2>/dev/null)" == "$wanted" ]] && return
  echo "setup: installing into $venv: $*"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "$@"
  echo "$wanted" >"$venv/installed"
}
digest() { sha256sum "$1" | cut -c1-16; }

install .venv "$(digest client/python/pyproject.toml) ${python_packages[*]}" \
  -e ./client/python "${python_packages[@]}"

# Meta-training has an environment of its own: current JAX needs a newer numpy than Debian's torch.
# What a build for GPUs is made with, which has the tests, too.
command -v nvcc >/dev/null && packages+=(libgmock-dev libgtest-dev)
if [[ "${1:-}" == --tests ]]; then
  [[ -x .venv-metatrain/bin/python ]] || /usr/bin/python3 -m venv .venv-metatrain
  install .venv-metatrain "$(digest metatrain/pyproject.toml)" -e './metatrain[dev,data]'
fi
