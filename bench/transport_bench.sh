#!/usr/bin/env bash
# What encryption and credentials cost: connections per second, bandwidth of large steps, and the time
# of small ones. Three daemons run side by side and are measured in turns, so that all see the same
# machine: `open` asks nobody for anything, `token` wants an access token in plaintext, `tls` wants it
# through TLS 1.3.
#
# usage: bench/transport_bench.sh FOLDER_OF_PROGRAMS [ROUNDS [SECONDS]]
set -euo pipefail
programs=$(realpath "$1")
bench=$(realpath "$(dirname "$0")")
rounds=${2:-3}
seconds=${3:-3}
folder=$(mktemp -d)
daemons=()
finish() {
  kill "${daemons[@]}" 2>/dev/null || true
  wait
  rm -rf "$folder"
}
trap finish EXIT
cd "$folder"

# Certificates for this run alone.
curve=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
openssl req -x509 "${curve[@]}" -keyout ca.key -out ca.pem -days 2 -subj /CN=root 2>/dev/null
openssl req "${curve[@]}" -keyout server.key -out server.csr -subj /CN=mnemosyned 2>/dev/null
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 \
  -extfile <(echo "subjectAltName=IP:127.0.0.1") 2>/dev/null
"$programs/mnemosynectl" token bench >secret 2>made
tail -1 made >access

start() { # NAME FLAG...
  local name=$1
  shift
  "$programs/mnemosyned" --listen 127.0.0.1:0 --models none --device cpu --log-level error \
    --ready-file "$name.json" "$@" &
  daemons+=($!)
  until [[ -s "$name.json" ]]; do sleep 0.05; done
  sed 's/.*"listen":\["\([^"]*\)".*/\1/' "$name.json" >"$name.address"
}
start open
start token --access access
start tls --tls-certificate server.pem --tls-key server.key --access access

ctl() { # NAME ARGUMENT...
  local name=$1
  shift
  local credentials=()
  [[ "$name" == open ]] || credentials+=(--access-token-file secret)
  [[ "$name" != tls ]] || credentials+=(--tls-ca ca.pem)
  "$programs/mnemosynectl" --json --address "$(<"$name.address")" "${credentials[@]}" "$@"
}
value() { sed -n "s/.*\"$1\": \([0-9.e+-]*\).*/\1/p" | head -1; }

echo "machine: $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg)"
connections() { # NAME
  local ca=()
  [[ "$1" != tls ]] || ca=(--ca ca.pem)
  python3 "$bench/connect_bench.py" "$(<"$1.address")" "${ca[@]}" --seconds "$seconds"
}

printf '%-6s %-6s %14s %14s %14s\n' round wire connections/s "GB/s of grads" "small p50 us"
for ((round = 1; round <= rounds; ++round)); do
  for name in open token tls; do
    large=$(ctl "$name" bench --parameters 4e6 --tensors 20 --optimizer sgd --seconds "$seconds" |
      value gradient_gb_per_second)
    small=$(ctl "$name" bench --parameters 1000 --tensors 2 --optimizer sgd --seconds "$seconds" |
      grep -A3 '"step_seconds"' | value p50)
    printf '%-6s %-6s %14s %14.3f %14.1f\n' "$round" "$name" "$(connections "$name")" "$large" \
      "$(awk "BEGIN{print $small*1e6}")"
  done
done
