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

# put_blob FILE: the file becomes a blob of the layout in $scratch/oci; its digest on stdout.
put_blob() {
	local digest
	digest=$(sha256sum <"$1" | cut -d ' ' -f 1)
	mv "$1" "$scratch/oci/blobs/sha256/$digest"
	echo "$digest"
}

# put_json MEDIA_TYPE: what comes on stdin becomes a blob; its descriptor (image-spec, descriptor.md) on stdout.
put_json() {
	local size digest
	cat >"$scratch/json"
	size=$(stat --format=%s "$scratch/json")
	digest=$(put_blob "$scratch/json")
	printf '{"mediaType": "application/vnd.oci.image.%s+json", "digest": "sha256:%s", "size": %s}' "$1" "$digest" "$size"
}

# pack_image OUTPUT.tar TREE VERSION: the tree as an OCI archive of one layer (image-spec, image-layout.md). It names no program: an
# image whose /etc/fcm says how a machine starts needs none.
pack_image() {
	local layer size config manifest now
	mkdir -p "$scratch/oci/blobs/sha256"
	as_root tar --create --directory="$2" --sort=name --format=posix --pax-option=delete=atime,delete=ctime --numeric-owner \
		--xattrs --xattrs-include='security.*' . >"$scratch/layer"
	size=$(stat --format=%s "$scratch/layer")
	layer=$(put_blob "$scratch/layer")
	now=$(date --utc +%Y-%m-%dT%H:%M:%SZ)
	config=$(put_json config.v1 <<-END
		{"created": "$now", "architecture": "amd64", "os": "linux",
		 "config": {"Labels": {"org.opencontainers.image.version": "$3"}},
		 "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]},
		 "history": [{"created": "$now", "created_by": "images/$name/build"}]}
	END
	)
	manifest=$(put_json manifest.v1 <<-END
		{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": $config,
		 "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "sha256:$layer", "size": $size}]}
	END
	)
	echo "{\"schemaVersion\": 2, \"manifests\": [$manifest]}" >"$scratch/oci/index.json"
	echo '{"imageLayoutVersion": "1.0.0"}' >"$scratch/oci/oci-layout"
	pack "$1" "$scratch/oci" oci-layout index.json blobs
}

# pack OUTPUT.tar DIR FILE...: appears under its name only when it is complete.
pack() {
	local output=$1 dir=$2
	shift 2
	tar --create --file="$output.partial" --directory="$dir" --owner=root:0 --group=root:0 --mode=u=rwX,go=rX \
		--mtime=@0 --format=ustar "$@"
	mv "$output.partial" "$output"
	say "wrote $output ($(du -h --apparent-size "$output" | cut -f1))"
}
