#!/bin/sh
# uninstall.sh DESTDIR PREFIX: stop and take away what install.sh wrote down that it brought.
#
# Configuration, state (/var/lib/tradingmesh) and the user stay: they may hold work.
set -eu
destdir=$1 prefix=$2
root=$destdir$prefix
manifest=$root/share/tradingmesh/installed

if [ ! -f "$manifest" ]; then
	echo "nothing is installed in $root; name the PREFIX (and DESTDIR) of make install" >&2
	exit 1
fi
if [ -z "$destdir" ] && [ -d /run/systemd/system ]; then
	systemctl disable --now tradingmesh tradingmesh-broker 2>/dev/null || true
fi
made=$(sort -ru "$manifest") # what lies in a directory stands before it
rm -f "$manifest"
echo "$made" | while read -r path; do
	case $path in
	*/) rmdir "$destdir$path" 2>/dev/null || true ;; # somebody else's files are in it too
	*) rm -f "$destdir$path" ;;
	esac
done
if [ -f "$root/pyvenv.cfg" ]; then # a virtualenv, and not some other directory
	rm -rf "$root"
else
	rmdir -p "$root/share/tradingmesh" 2>/dev/null || true
fi
[ -z "$destdir" ] || exit 0
rmdir /dev/shm/tradingmesh 2>/dev/null || true # where no segment is left in it
[ ! -d /run/systemd/system ] || systemctl daemon-reload
echo "left in place: /etc/tradingmesh, /var/lib/tradingmesh, the user tradingmesh"
