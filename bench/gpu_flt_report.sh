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
# Peers compile side by side, each in a process of its own, which may break or hang; they are timed
# when ours is. Nothing is timed before all of them are ready, or have had time enough.
rm -f "$out/start" "$out"/ready_*
processes=()
for peer in SDPA "compiled FLT" FlexAttention fla; do
  lengths=("65536 1024 16384")
  # What takes long to compile takes a process a length.
  [[ $peer != "compiled FLT" ]] || lengths=(65536 1024 16384)
  for type in bfloat16 float32; do
    for mask in none causal; do
      for length in "${lengths[@]}"; do
        name=${peer// /_}_${type}_${mask}_${length%% *}
        # shellcheck disable=SC2086
        timeout 220 python3 "$here/gpu_flt_peers.py" --seconds 75 --peers "$peer" \
          --types "$type" --masks "$mask" --lengths $length --start "$out/start" \
          --lock "$out/lock" --ready "$out/ready_$name" >"$out/peer_$name.jsonl" &
        processes+=($!)
      done
    done
  done
done
count_ready() { find "$out" -maxdepth 1 -name 'ready_*' | wc -l; }
while (($(jobs -rp | wc -l) > $(count_ready) && SECONDS < 110)); do sleep 0.5; done
echo "gpu_flt_report: $(count_ready) of ${#processes[@]} peers are ready after $SECONDS s" >&2
"$programs/flt_bench" --device cuda:0 --seconds 0.1 >"$out/flt.jsonl"
"$programs/flt_bench" --device cuda:0 --seconds 0.1 --backward >"$out/flt_backward.jsonl"
touch "$out/start"
for process in "${processes[@]}"; do
  wait "$process" || echo "gpu_flt_report: a peer did not come to its end" >&2
done
cat "$out"/peer_*.jsonl >"$out/flt_peers.jsonl"
python3 "$here/gpu_flt_table.py" "$out"
