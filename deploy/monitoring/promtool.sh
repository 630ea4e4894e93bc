#!/usr/bin/env bash
# Puts promtool into the folder $1, out of Debian's package and without its service. Where there is no apt, or it does
# not answer, the tests that need promtool are skipped and say so.
set -euo pipefail
folder=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if apt-get download --quiet prometheus || { apt-get update --quiet && apt-get download --quiet prometheus; }; then
    dpkg-deb --extract prometheus_*.deb .
    install usr/bin/promtool "$folder"
else
    echo "promtool is not to be had from here: its tests will be skipped" >&2
fi
