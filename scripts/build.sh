#!/usr/bin/env bash
# Configures and builds a preset.
#
# usage: scripts/build.sh PRESET [TARGET ...]
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
shift
# A fresh clone finds what another one compiled.
export CCACHE_BASEDIR="$PWD" CCACHE_NOHASHDIR=1
cmake --preset "$preset" >"/tmp/mnemosyne-configure-$preset-$$.log" 2>&1 || {
  cat "/tmp/mnemosyne-configure-$preset-$$.log" >&2
  exit 1
}
rm -f "/tmp/mnemosyne-configure-$preset-$$.log"
targets=()
for target in "$@"; do targets+=(--target "$target"); done
cmake --build --preset "$preset" -j "$(nproc)" "${targets[@]}"
