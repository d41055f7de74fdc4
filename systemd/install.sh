#!/bin/sh
# install.sh DESTDIR PREFIX PYTHON: virtualenv, commands, completions, units, user, mesh, settings.
#
# Nothing is enabled or started, and a configuration that is there already is kept. With a DESTDIR
# (for packages) only files are written, below it. UNITS_ONLY=1 leaves the virtualenv out.
# What is made is written down in PREFIX/share/tradingmesh/installed, for uninstall.sh.
set -eu
destdir=$1 prefix=$2 python=$3
source=$(cd "$(dirname "$0")/.." && pwd)
manifest=$destdir$prefix/share/tradingmesh/installed

# directory PATH: make it where it is not there, and write down each one that was made
directory() {
	[ -d "$destdir$1" ] || {
		directory "$(dirname "$1")"
		mkdir -m 755 "$destdir$1"
		echo "$1/" >>"$manifest"
	}
}

# file PATH MODE: what stands at the input
file() {
	directory "$(dirname "$1")"
	cat >"$destdir$1"
	chmod "$2" "$destdir$1"
	echo "$1" >>"$manifest"
}

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
mkdir -p "${manifest%/*}"

for command in meshd meshctl; do
	link=/usr/local/bin/$command
	directory /usr/local/bin
	if [ ! -e "$destdir$link" ] && [ ! -L "$destdir$link" ]; then
		ln -s "$prefix/bin/$command" "$destdir$link"
		echo "$link" >>"$manifest"
	elif [ "$(readlink "$destdir$link")" != "$prefix/bin/$command" ]; then
		echo "left alone: $destdir$link, which is another program; ours is $prefix/bin/$command" >&2
	fi
done
for pair in bash:/usr/share/bash-completion/completions/meshctl \
	zsh:/usr/share/zsh/vendor-completions/_meshctl \
	fish:/usr/share/fish/vendor_completions.d/meshctl.fish; do
	(cd "$source" && "$python" -B -m workers.ctl.cli completion "${pair%%:*}") | file "${pair#*:}" 644
done

for unit in tradingmesh.service tradingmesh-broker.service; do
	sed "s|/opt/tradingmesh|$prefix|g" "$source/systemd/$unit" \
		| file "/usr/lib/systemd/system/$unit" 644
done
for kind in sysusers tmpfiles; do
	file "/usr/lib/$kind.d/tradingmesh.conf" 644 <"$source/systemd/tradingmesh.$kind.conf"
done
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
installed in $prefix, with meshd and meshctl in /usr/local/bin; nothing is started yet. Next:
  edit /etc/tradingmesh/tradingmesh.toml
  meshd --profile /etc/tradingmesh/tradingmesh.toml --check
  systemctl enable --now tradingmesh
END
