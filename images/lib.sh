# What the build scripts share; sourced by bash. Each is called as `build OUTPUT.tar`, says its progress on stderr, works
# as root and as an ordinary user (through user namespaces), and leaves nothing but its output.
# shellcheck shell=bash
set -euo pipefail
umask 022
export LC_ALL=C
export PATH="$PATH:/usr/sbin:/sbin"

say() {
	printf '%s: %s\n' "${name:-build}" "$*" >&2
}

die() {
	say "$*"
	exit 1
}

need() {
	local program
	for program; do
		command -v "$program" >/dev/null || die "needs the program '$program'"
	done
}

# Run a command as root: really, or as root of a user namespace with the caller's subordinate ids, so that files get
# the owners that they shall have in the image.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		unshare --map-root-user --map-auto --setuid 0 --setgid 0 "$@"
	fi
}

# A scratch directory in $scratch that is removed at the end.
make_scratch() {
	scratch=$(mktemp -d "${TMPDIR:-/tmp}/fcm-image.XXXXXX")
	trap 'as_root rm -rf "$scratch"' EXIT
}

# download DIR PACKAGE...: fetch packages of the running release with the host's own apt configuration; nothing is
# installed.
download() {
	local dir=$1
	shift
	mkdir -p "$dir"
	(cd "$dir" && apt-get -q -o APT::Sandbox::User="$(id -un)" download "$@" >&2) ||
		die "cannot download $* (does 'apt-get update' work here?)"
}

# unpack DIR PACKAGE.deb...
unpack() {
	local dir=$1 deb
	shift
	for deb; do
		as_root dpkg-deb -x "$deb" "$dir"
	done
}

# make_ext4 TREE OUTPUT: an ext4 with hardly a free block. No journal and no reserve: it is only ever mounted read-only.
make_ext4() {
	local blocks inodes
	blocks=$(as_root du -s --block-size=4096 "$1" | cut -f1)
	inodes=$(($(as_root find "$1" | wc -l) + 64))
	# An inode takes 256 bytes; 3% and 4 MiB for directories, extents and the groups' own blocks.
	blocks=$((blocks + inodes / 16 + blocks / 32 + 1024))
	: >"$2"
	as_root mke2fs -q -t ext4 -b 4096 -N "$inodes" -O ^has_journal,^resize_inode -m 0 -L fcm -E root_owner=0:0 \
		-d "$1" "$2" "$blocks"
	resize2fs -M "$2" >/dev/null 2>&1
}

# pack OUTPUT.tar DIR FILE...: appears under its name only when it is complete.
pack() {
	local output=$1 dir=$2
	shift 2
	tar --create --file="$output.partial" --directory="$dir" --owner=root:0 --group=root:0 --mode=0644 \
		--mtime=@0 --format=ustar "$@"
	mv "$output.partial" "$output"
	say "wrote $output ($(du -h --apparent-size "$output" | cut -f1))"
}
