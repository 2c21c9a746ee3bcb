#!/usr/bin/env bash
# What encryption and credentials cost: handshakes per second, bandwidth of large steps, and the time
# of small ones, through TLS with an access token against plaintext without one. Both daemons run
# side by side and are measured in turns, so that both see the same machine.
#
# usage: bench/transport_bench.sh FOLDER_OF_PROGRAMS [ROUNDS [SECONDS]]
set -euo pipefail
programs=$(realpath "$1")
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
start plain
start tls --tls-certificate server.pem --tls-key server.key --access access

ctl() { # NAME ARGUMENT...
  local name=$1
  shift
  local credentials=()
  [[ "$name" == plain ]] || credentials=(--tls-ca ca.pem --access-token-file secret)
  "$programs/mnemosynectl" --json --address "$(<"$name.address")" "${credentials[@]}" "$@"
}
value() { sed -n "s/.*\"$1\": \([0-9.e+-]*\).*/\1/p" | head -1; }

echo "machine: $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg)"
printf '%-6s %-6s %14s %14s\n' round wire "GB/s of grads" "small p50 us"
for ((round = 1; round <= rounds; ++round)); do
  for name in plain tls; do
    large=$(ctl "$name" bench --parameters 4e6 --tensors 20 --optimizer sgd --seconds "$seconds" |
      value gradient_gb_per_second)
    small=$(ctl "$name" bench --parameters 1000 --tensors 2 --optimizer sgd --seconds "$seconds" |
      grep -A3 '"step_seconds"' | value p50)
    printf '%-6s %-6s %14.3f %14.1f\n' "$round" "$name" "$large" "$(awk "BEGIN{print $small*1e6}")"
  done
done
# Full handshakes of TLS 1.3, one after the other; the client's share of the work is in it.
openssl s_time -connect "$(<tls.address)" -new -time "$seconds" -CAfile ca.pem 2>/dev/null </dev/null |
  grep "real seconds" || true
