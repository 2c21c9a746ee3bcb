#!/bin/sh
# Installs what the daemon is built with, or tells it.
#
# usage: deploy/install_packages.sh 0|1|list
#   0      the newest versions that the distribution has
#   1      the versions of packages.txt, from the archive's state that the image's own list of
#          sources names in a comment
#   list   prints packages.txt for the versions that are installed here
set -eu
list=$(dirname "$0")/packages.txt
names=$(sed 's/=.*//' "$list")
case "${1:-}" in
  0) packages=$names ;;
  1)
    packages=$(cat "$list")
    sources=/etc/apt/sources.list.d/debian.sources
    # "# http://.../20250811T000000Z" stands above the line that it can take the place of.
    awk '/^# http/ {frozen = $2; next}
         /^URIs:/ && frozen {print "URIs: " frozen; frozen = ""; found = 1; next}
         {print}
         END {exit !found}' "$sources" >"$sources.new"
    mv "$sources.new" "$sources"
    # That state of the archive is as old as the image, and signed as it was then.
    echo 'Acquire::Check-Valid-Until "false";' >/etc/apt/apt.conf.d/frozen
    ;;
  list)
    # shellcheck disable=SC2086
    dpkg-query --show --showformat '${Package}=${Version}\n' $names
    exit
    ;;
  *)
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
apt-get update
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages
rm -rf /var/lib/apt/lists/*
