#!/bin/bash
# private_systemd.sh STATE: a systemd as PID 1 of private namespaces (root needed).
#
# STATE/units holds the units and the target `test.target`, STATE/etc what is laid over /etc.
# Nothing outside the namespaces is touched but one empty cgroup, whose path is left in
# STATE/cgroup for the caller to remove.
set -eu
state=$(realpath "$1")
root=/sys/fs/cgroup
[ ! -d $root/unified ] || root=$root/unified
cgroup=$root/tradingmesh-test.$$
mkdir "$cgroup"
echo "$cgroup" >"$state/cgroup"
echo 0 >"$cgroup/cgroup.procs"
exec unshare --pid --mount --uts --ipc --cgroup --fork --kill-child -- bash -euc '
	state=$0
	mount --make-rprivate /
	mount -t proc proc /proc
	umount -R /sys/fs/cgroup
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	mount -t tmpfs tmpfs /run
	mount -t tmpfs tmpfs /var/lib
	for file in "$state"/etc/*; do
		[ -e "/etc/${file##*/}" ] || { [ -d "$file" ] && mkdir "/etc/${file##*/}"; }
		mount --bind "$file" "/etc/${file##*/}"
	done
	mkdir -p /run/systemd/system /run/base /run/lock
	cp "$state"/units/* -r /run/systemd/system/
	for unit in basic sysinit shutdown sockets local-fs timers paths slices umount final exit; do
		cp "/lib/systemd/system/$unit.target" /run/base/
	done
	cp /lib/systemd/system/systemd-exit.service /run/base/
	# among these namespaces alone: systemd mounts credentials from yet another one
	mount --make-rshared /
	exec env -i container=tradingmesh-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
		SYSTEMD_UNIT_PATH=/run/systemd/system:/run/base \
		/lib/systemd/systemd --system --unit=test.target --show-status=no --log-level=info \
		--log-target=console --dump-core=no --crash-shell=no
' "$state"
