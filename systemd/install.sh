#!/bin/sh
# install.sh DESTDIR PREFIX PYTHON: virtualenv, units, user, mesh directory, configuration.
#
# Nothing is enabled or started, and a configuration that is there already is kept. With a DESTDIR
# (for packages) only files are written, below it. UNITS_ONLY=1 leaves the virtualenv out.
set -eu
destdir=$1 prefix=$2 python=$3
source=$(cd "$(dirname "$0")/.." && pwd)
units=$destdir/usr/lib/systemd/system

if [ -z "${UNITS_ONLY:-}" ]; then
	[ -x "$destdir$prefix/bin/python" ] || "$python" -m venv "$destdir$prefix"
	# shellcheck disable=SC2086 # PIP_ARGS are words
	"$destdir$prefix/bin/python" -m pip install --disable-pip-version-check ${PIP_ARGS:-} "$source"
	if [ -n "$destdir" ]; then # scripts name the interpreter where it will be
		grep -lIF "#!$destdir$prefix" "$destdir$prefix"/bin/* | while read -r script; do
			sed -i "1s|^#!$destdir|#!|" "$script"
		done
	fi
fi

install -d "$units" "$destdir/usr/lib/sysusers.d" "$destdir/usr/lib/tmpfiles.d"
for unit in tradingmesh.service tradingmesh-broker.service; do
	sed "s|/opt/tradingmesh|$prefix|g" "$source/systemd/$unit" >"$units/$unit"
	chmod 644 "$units/$unit"
done
install -m 644 "$source/systemd/tradingmesh.sysusers.conf" \
	"$destdir/usr/lib/sysusers.d/tradingmesh.conf"
install -m 644 "$source/systemd/tradingmesh.tmpfiles.conf" \
	"$destdir/usr/lib/tmpfiles.d/tradingmesh.conf"
install -d -m 755 "$destdir/etc/tradingmesh"
for pair in config/production.toml:tradingmesh.toml systemd/broker.toml:broker.toml; do
	target=$destdir/etc/tradingmesh/${pair#*:}
	[ -e "$target" ] || install -m 644 "$source/${pair%%:*}" "$target"
done

[ -z "$destdir" ] || exit 0
systemd-sysusers tradingmesh.conf
systemd-tmpfiles --create tradingmesh.conf
[ ! -d /run/systemd/system ] || systemctl daemon-reload
cat <<END
installed in $prefix; nothing is started yet. Next:
  edit /etc/tradingmesh/tradingmesh.toml
  $prefix/bin/meshd --profile /etc/tradingmesh/tradingmesh.toml --check
  systemctl enable --now tradingmesh
END
