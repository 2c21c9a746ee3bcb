#!/bin/sh
# Measures steps through mnemosyned against a bare gRPC echo: starts both on free ports, runs
# stream_bench, stops both.
#
#   bench/stream_bench.sh [BIN_FOLDER] [OPTION OF stream_bench ...]
#
# BIN_FOLDER has mnemosyned, echo_server and stream_bench; it is build/release/bin unless given.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
bin=$root/build/release/bin
if [ $# -gt 0 ] && [ -d "$1" ]; then
  bin=$1
  shift
fi

work=$(mktemp -d)
daemon=
echo=
stop() {
  for process in $daemon $echo; do kill -TERM "$process" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

"$bin/mnemosyned" --listen 127.0.0.1:0 --socket "$work/daemon.sock" \
  --ready-file "$work/daemon.json" >"$work/daemon.log" 2>&1 &
daemon=$!
"$bin/echo_server" --listen 127.0.0.1:0 --socket "$work/echo.sock" \
  --ready-file "$work/echo.json" >"$work/echo.log" 2>&1 &
echo=$!

# The TCP address of a server, once it has written its file; 10 s at most.
address() {
  tries=0
  until [ -s "$work/$1.json" ]; do
    tries=$((tries + 1))
    if [ $tries -gt 100 ]; then
      echo "$1 does not start:" >&2
      cat "$work/$1.log" >&2
      exit 1
    fi
    sleep 0.1
  done
  sed 's/.*"listen":\["\([^"]*\)".*/\1/' "$work/$1.json"
}
daemon_tcp=$(address daemon)
echo_tcp=$(address echo)

"$bin/stream_bench" --daemon-tcp "$daemon_tcp" --daemon-socket "unix:$work/daemon.sock" \
  --echo-tcp "$echo_tcp" --echo-socket "unix:$work/echo.sock" "$@"
