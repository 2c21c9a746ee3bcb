#!/bin/sh
# Installs what the daemon is built with, or tells it.
#
# usage: deploy/install_packages.sh 0|1|list
#   0      the newest versions that the distribution has
#   1      the versions of packages.txt, from the archive as it was at the time that it names; where
#          former states of the archive are, the image's own list of sources says in a comment
#   list   prints packages.txt for the versions that are installed here, at the time of the lists
#          that apt has here
set -eu
folder=$(dirname "$0")
list=$folder/packages.txt
names=$(sed -n 's/^\([^=#]*\)=.*/\1/p' "$list" | grep -vx archive)
case "${1:-}" in
  0) packages=$names ;;
  1)
    packages=$(grep -v -e '^#' -e '^archive=' "$list")
    time=$(sed -n 's/^archive=//p' "$list")
    sources=/etc/apt/sources.list.d/debian.sources
    # "# http://.../20250811T000000Z" stands above the line that it can take the place of.
    awk -v time="$time" '
         /^# http/ {frozen = $2; sub(/[0-9]+T[0-9]+Z$/, time, frozen); next}
         /^URIs:/ && frozen {print "URIs: " frozen; frozen = ""; found = 1; next}
         {print}
         END {exit !found}' "$sources" >"$sources.new"
    mv "$sources.new" "$sources"
    # That state of the archive was signed for the days after it.
    echo 'Acquire::Check-Valid-Until "false";' >/etc/apt/apt.conf.d/frozen
    ;;
  list)
    sed -n '/^#/p' "$list"
    # Some hours after the newest of the lists, it surely is in the states of the archive.
    grep -l '^Origin: Debian$' /var/lib/apt/lists/*InRelease | xargs sed -n 's/^Date: //p' |
      while read -r date; do date -u -d "$date + 4 hours" +archive=%Y%m%dT%H0000Z; done |
      sort | tail -n 1
    # shellcheck disable=SC2086
    dpkg-query --show --showformat '${Package}=${Version}\n' $names
    exit
    ;;
  *)
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
apt-get update
# Older versions than the image's, too: all of them are of one state of the archive.
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends --allow-downgrades $packages
rm -rf /var/lib/apt/lists/*
