#!/usr/bin/env bash
# Measures everything of bench/README.md that needs a GPU, in one go, and prints it as a table.
#
# usage: bench/gpu_report.sh PROGRAMS [OUT]
#   PROGRAMS   the bin folder of a build with the CUDA backend, or of what scripts/bundle.sh collects
#   OUT        where the lines of JSON go; default: gpu_report
#
# Of the peers it runs those that are there: PyTorch must be, PyLO need not.
set -euo pipefail
if (($# < 1)); then
  sed -n '2,9s/^# \{0,1\}//p' "$0"
  exit 1
fi
here=$(cd "$(dirname "$0")" && pwd)
programs=$(cd "$1" && pwd)
out=${2:-gpu_report}
mkdir -p "$out"
"$programs/device_bench" --shapes >"$out/shapes.json"
python3 "$here/gpu_peers.py" "$out/shapes.json" | tee "$out/peers.jsonl"
"$programs/device_bench" --device cuda:0 --models "$here/../models" | tee "$out/ours.jsonl"
"$programs/device_bench" --device cuda:0 --models "$here/../models" --sessions 1000 |
  tee "$out/sessions.jsonl"
python3 "$here/gpu_table.py" "$out"
"$here/gpu_flt_report.sh" "$programs" "$out"
