#!/usr/bin/env bash
# Measures FLT attention and its peers on a GPU, both passes, in less than four minutes, and prints
# a table.
#
# usage: bench/gpu_flt_report.sh PROGRAMS [OUT]
#   PROGRAMS   the bin folder of a build with the CUDA backend, or of what scripts/bundle.sh collects
#   OUT        where the lines of JSON go; default: gpu_flt_report
set -euo pipefail
if (($# < 1)); then
  sed -n '2,7s/^# \{0,1\}//p' "$0"
  exit 1
fi
here=$(cd "$(dirname "$0")" && pwd)
programs=$(cd "$1" && pwd)
out=${2:-gpu_flt_report}
mkdir -p "$out"
"$programs/flt_bench" --device cuda:0 --seconds 0.2 >"$out/flt.jsonl"
"$programs/flt_bench" --device cuda:0 --seconds 0.2 --backward >"$out/flt_backward.jsonl"
# A peer a process: what one of them hangs in or breaks is its own.
: >"$out/flt_peers.jsonl"
for peer in SDPA "compiled FLT" FlexAttention fla; do
  timeout 60 python3 "$here/gpu_flt_peers.py" --seconds 40 --peers "$peer" >>"$out/flt_peers.jsonl" ||
    echo "gpu_flt_report: $peer did not come to its end" >&2
done
python3 "$here/gpu_flt_table.py" "$out"
