#!/usr/bin/env bash
# Kills and delays a daemon at every fail point, many times over, and compares the parameters that
# jobs end with, bit for bit, with those of an undisturbed run. Needs the preset `dev`.
#
# usage: scripts/chaos.sh [--rounds N] [--minutes M] [--seed S] [--report FILE]
#   --rounds   how often every point is met (default 5)
#   --minutes  after how long no other round is begun
#   --seed     what the first round is drawn from; the next ones have the numbers that follow
#   --report   where the report goes, in Markdown (default: standard output)
set -euo pipefail
cd "$(dirname "$0")/.."
export MNEMOSYNED="${MNEMOSYNED:-$PWD/build/dev/bin/mnemosyned}"
PYTHONPATH="$PWD/tests/e2e:$PWD/client/python/src${PYTHONPATH:+:$PYTHONPATH}" \
  exec "${PYTHON:-.venv/bin/python}" tests/e2e/chaos_report.py "$@"
