#!/usr/bin/env bash
# Kills and delays a daemon at every fail point, many times over, and compares the parameters that a
# job ends with, bit for bit, with those of an undisturbed run. Needs the preset `dev`.
#
# usage: scripts/chaos.sh [--rounds N] [--report FILE]
#   --rounds   how many passes through each point are tried (default 5)
#   --report   where the report goes, in Markdown (default: standard output)
set -euo pipefail
cd "$(dirname "$0")/.."
export MNEMOSYNED="${MNEMOSYNED:-$PWD/build/dev/bin/mnemosyned}"
PYTHONPATH="$PWD/tests/e2e:$PWD/client/python/src${PYTHONPATH:+:$PYTHONPATH}" \
  exec .venv/bin/python tests/e2e/chaos_report.py "$@"
