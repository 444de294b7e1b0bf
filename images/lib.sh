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

# need PROGRAM...: all of them, or say how to get those that are missing.
need() {
	local program missing=()
	for program; do
		command -v "$program" >/dev/null || missing+=("$(package_of "$program")")
	done
	[ ${#missing[@]} = 0 ] || die "programs are missing: sudo apt-get install $(printf '%s\n' "${missing[@]}" | sort -u | xargs)"
}

# package_of PROGRAM: the Debian package that it is in.
package_of() {
	case $1 in
	xz) echo xz-utils ;;
	mke2fs | resize2fs) echo e2fsprogs ;;
	dpkg-deb) echo dpkg ;;
	apt-get | apt-cache) echo apt ;;
	newuidmap) echo uidmap ;;
	*) echo "$1" ;;
	esac
}

# Files of several owners are made here: root can, and others with subordinate ids (subuid(5)).
need_ids() {
	[ "$(id -u)" != 0 ] || return 0
	need newuidmap
	as_root true 2>/dev/null || die "$(id -un) has no subordinate ids that a user namespace could map. As root it works;" \
		"or: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)"
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
	# What as_root made only it can remove.
	trap 'rm -rf "$scratch" 2>/dev/null || as_root rm -rf "$scratch"' EXIT
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
