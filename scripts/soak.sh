#!/usr/bin/env bash
# Puts a daemon under mixed load for a time: sessions of all optimizers come, step, break off, leave
# memory and come back. Fails if the mean of its resident memory, file descriptors or threads in the
# last third is 1 % above that of the third before.
#
# usage: scripts/soak.sh --minutes N [--report FILE] [--plot FILE]
#   --report   where the report goes, in Markdown (default: standard output)
#   --plot     where a plot over time goes, as SVG
set -euo pipefail
cd "$(dirname "$0")/.."
export MNEMOSYNED="${MNEMOSYNED:-$PWD/build/dev/bin/mnemosyned}"
PYTHONPATH="$PWD/tests/e2e:$PWD/client/python/src${PYTHONPATH:+:$PYTHONPATH}" \
  exec "${PYTHON:-.venv/bin/python}" tests/e2e/soak_report.py "$@"
