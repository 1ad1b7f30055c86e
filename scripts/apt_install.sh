#!/bin/sh
# apt_install.sh PACKAGE: installs a Debian package quietly, as root or with sudo.
set -eu
if [ "$(id -u)" -eq 0 ]; then sudo=; else sudo=sudo; fi
$sudo apt-get install -y "$1" >/dev/null 2>&1 && exit 0
$sudo apt-get update >/dev/null  # a fresh machine has no package lists
$sudo apt-get install -y "$1" >/dev/null
