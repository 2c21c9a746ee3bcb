#!/usr/bin/env bash
# Puts a daemon under mixed load for a time: sessions come, step, are killed off, leave memory and
# come back. Fails if its resident memory, file descriptors or threads grow after the warm-up.
#
# usage: scripts/soak.sh --minutes N [--report FILE]
set -euo pipefail
cd "$(dirname "$0")/.."
export MNEMOSYNED="${MNEMOSYNED:-$PWD/build/dev/bin/mnemosyned}"
PYTHONPATH="$PWD/tests/e2e:$PWD/client/python/src${PYTHONPATH:+:$PYTHONPATH}" \
  exec .venv/bin/python tests/e2e/soak_report.py "$@"
