# What takes a Debian kernel package apart; sourced by bash after lib.sh. The unpacked package is $tree, modules are put into
# $initrd/modules, work is done in $scratch.
# shellcheck shell=bash disable=SC2154 # who sources it sets those three
added=

# kernel_package: the package that the metapackage stands for, linux-image-<release>-cloud-amd64.
kernel_package() {
	apt-cache depends --important linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p'
}

# number FILE OFFSET BYTES: a little-endian number.
number() {
	od -An -v --endian=little -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '
}

# decompress: by its magic number. Kernels of Debian 12 are LZ4, of Debian 13 zstd or xz.
decompress() {
	local file=$1
	case $(od -An -t x1 -N 4 "$file" | tr -d ' ') in
	1f8b*) gzip -dc "$file" ;;
	fd377a58) xz -dc "$file" ;;
	28b52ffd) zstd -dcq "$file" ;;
	02214c18) lz4 -dcq "$file" ;;
	7f454c46) cat "$file" ;;
	*) die "unknown compression of $file" ;;
	esac
}

# extract_vmlinux BZIMAGE OUTPUT: the payload lies where the header says (Linux boot protocol 2.08: setup_sects,
# payload_offset, payload_length). All formats but gzip end with the size in four bytes that aren't theirs.
extract_vmlinux() {
	local setup offset length
	[ "$(number "$1" $((0x202)) 2)" -ge $((0x208)) ] || die "$1: boot protocol before 2.08"
	setup=$(number "$1" $((0x1f1)) 1)
	offset=$(((setup + 1) * 512 + $(number "$1" $((0x248)) 4)))
	length=$(number "$1" $((0x24c)) 4)
	tail -c "+$((offset + 1))" "$1" | head -c "$length" >"$scratch/payload" || true
	[ "$(number "$scratch/payload" 0 2)" = $((0x8b1f)) ] || truncate -s -4 "$scratch/payload"
	decompress "$scratch/payload" >"$2"
	[ "$(od -An -t x1 -N 4 "$2" | tr -d ' ')" = 7f454c46 ] || die "what $1 holds is no ELF file"
}

# find_module NAME: its file; "-" and "_" are the same in names of modules.
find_module() {
	local pattern=${1//[-_]/[-_]}
	find "$tree" -path '*/kernel/*' \( -name "$pattern.ko" -o -name "$pattern.ko.*" \) -print -quit
}

# built_in NAME: whether the kernel has it inside; which of them are differs from release to release.
built_in() {
	find "$tree" -name modules.builtin -exec grep -q "/${1//[-_]/[-_]}\.ko\$" {} +
}

# add_module NAME [LIST]: what it depends on (.modinfo says it), then itself, each once, named in the file LIST (order).
add_module() {
	local module=${1//-/_} list=${2:-order} file dependency
	case " $added " in *" $module "*) return ;; esac
	added="$added $module"
	built_in "$module" && return
	file=$(find_module "$module")
	[ -n "$file" ] || die "the kernel has no module $1"
	case $file in
	*.ko) cp "$file" "$scratch/$module.ko" ;;
	*) decompress "$file" >"$scratch/$module.ko" ;;
	esac
	for dependency in $(tr '\0' '\n' <"$scratch/$module.ko" | sed -n 's/^depends=//p' | tr ',' ' '); do
		add_module "$dependency" "$list"
	done
	install -m 0644 "$scratch/$module.ko" "$initrd/modules/$module.ko"
	echo "$module.ko" >>"$initrd/modules/$list"
}
