#!/bin/sh
# uninstall.sh DESTDIR PREFIX: stop and take away what install.sh brought.
#
# Configuration, state (/var/lib/tradingmesh) and the user stay: they may hold work.
set -eu
destdir=$1 prefix=$2

if [ -z "$destdir" ] && [ -d /run/systemd/system ]; then
	systemctl disable --now tradingmesh tradingmesh-broker 2>/dev/null || true
fi
rm -f "$destdir/usr/lib/systemd/system/tradingmesh.service" \
	"$destdir/usr/lib/systemd/system/tradingmesh-broker.service" \
	"$destdir/usr/lib/sysusers.d/tradingmesh.conf" \
	"$destdir/usr/lib/tmpfiles.d/tradingmesh.conf"
root=$destdir$prefix
if [ -f "$root/pyvenv.cfg" ]; then # a virtualenv, and not some other directory
	rm -rf "$root"
fi
if [ -z "$destdir" ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
[ -n "$destdir" ] || echo "left in place: /etc/tradingmesh, /var/lib/tradingmesh, the user tradingmesh"
