#!/usr/bin/env bash
# Shows Mnemosyne at work: installs what is missing, builds the daemon, starts it, trains a
# convolutional net on handwritten digits through it beside AdamW, draws the curves to
# demo/training.png, and stops the daemon. The daemon computes on the first GPU where there is one
# and CUDA's compiler is installed, else on the CPU.
#
# usage: scripts/demo.sh [options of scripts/demo_train.py: --optimizer --model --steps --seed]
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0"
  exit 0
fi

preset=release
device=cpu
if command -v nvcc >/dev/null && nvidia-smi --list-gpus 2>/dev/null | grep -q '^GPU 0'; then
  preset=cuda
  device=cuda:0
fi

scripts/setup.sh
echo "demo: building the daemon for $device (minutes the first time, seconds after that)"
scripts/build.sh "$preset" mnemosyned mnemosynectl >/dev/null
programs=build/$preset/bin

mkdir -p demo
work=$(mktemp -d)
daemon=
finish() {
  local code=$?
  if [[ -n "$daemon" ]] && kill -0 "$daemon" 2>/dev/null; then
    kill -TERM "$daemon"
    wait "$daemon" || code=$?
    echo "demo: the daemon has stopped"
  fi
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT

"$programs/mnemosyned" --device "$device" --listen 127.0.0.1:0 --ready-file "$work/ready" \
  2>demo/mnemosyned.log &
daemon=$!
for _ in $(seq 100); do
  [[ -s "$work/ready" ]] && break
  kill -0 "$daemon" 2>/dev/null || {
    cat demo/mnemosyned.log >&2
    exit 1
  }
  sleep 0.1
done
address=$(.venv/bin/python -c 'import json,sys; print(json.load(open(sys.argv[1]))["listen"][0])' \
  "$work/ready")
echo "demo: mnemosyned serves $address, on $device"

.venv/bin/python scripts/demo_train.py "$address" "$@"

"$programs/mnemosynectl" --address "$address" version
cat <<TEXT

What to try next:
  scripts/demo.sh --optimizer adamw           a classic one, bit for bit as in torch.optim
  scripts/demo.sh --model mlp --steps 2000    another net, a longer run
  $programs/mnemosyned --help         all options of the daemon
  $programs/mnemosynectl --help       look into a running daemon
  README.md                                   ten lines to use it in your own training
TEXT
