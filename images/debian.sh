# What the images made of Debian packages share, `base` and `debian`; sourced by bash after lib.sh. They hold no password, no host
# key, no machine id and nothing of the build machine but its apt sources.
# shellcheck shell=bash

# What one expects. An image may add some.
packages=(
	openssh-server
	ruby ruby-bundler python3 python3-pip python3-venv
	bash bash-completion ca-certificates curl
	iproute2 iputils-ping netbase procps psmisc less vim-tiny xz-utils
)

# Nobody reads manuals in a VM that lives for an hour; licences stay.
slim=(
	'path-exclude=/usr/share/man/*'
	'path-exclude=/usr/share/info/*'
	'path-exclude=/usr/share/locale/*'
	'path-exclude=/usr/share/doc/*'
	'path-include=/usr/share/doc/*/copyright'
	'path-exclude=/usr/share/ri/*'
	'path-exclude=/usr/share/lintian/*'
)

# sources: the build machine's own Debian sources, one a line, for the bootstrap and for the guest.
sources() {
	apt-get indextargets --format "deb [signed-by=$keyring] \$(REPO_URI) \$(RELEASE) \$(COMPONENT)" \
		'Identifier: Packages' 'Origin: Debian' | grep " $VERSION_CODENAME" | sort -u
}

# bootstrap: the root file system as a tar on stdout.
bootstrap() {
	local options=() option
	for option in "${slim[@]}"; do
		options+=("--dpkgopt=$option")
	done
	sources | mmdebstrap --quiet --variant=minbase --format=tar "${options[@]}" \
		--include="$(IFS=,; echo "${packages[*]}")" "$VERSION_CODENAME" - -
}

# finish ROOT: runs as root of the image's own ids.
finish() {
	local root=$1
	rm -f "$root"/etc/ssh/ssh_host_* "$root"/etc/hostname "$root"/etc/resolv.conf "$root"/etc/machine-id \
		"$root"/var/lib/dbus/machine-id "$root"/etc/motd "$root"/var/log/*.log "$root"/var/log/apt/*
	rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/cache/debconf/*-old
	# The client's locale is seldom one that we have.
	sed -i 's/^AcceptEnv/#AcceptEnv/' "$root/etc/ssh/sshd_config"
	# Each login ran a shell script for the message of the day.
	sed -i '/pam_motd\|pam_mail/d' "$root/etc/pam.d/sshd"
	cp -r --remove-destination "$images/debian-files/." "$files/." "$root/"
	install -d -m 0700 "$root/root/.ssh"
	ln -s /etc/fcm/env "$root/root/.ssh/environment"
	# An OpenSSH before 9.8 reads its host key for each connection: a clone needs no word to it.
	[ -e "$root/usr/lib/openssh/sshd-session" ] || rm -r "$root/etc/fcm/clone.d"
	finish_own "$root"
}

# debian_image ARGUMENTS OF THE SCRIPT: its whole work. The script has $name and finish_own ROOT, which does what is its own.
debian_image() {
	images=$(dirname "$0")/..
	# Called again as root of a user namespace (as_root can't call a function).
	if [ "${1:-}" = --finish ]; then
		files=$2
		finish "$3"
		return
	fi
	[ $# = 1 ] || die "usage: $0 OUTPUT.tar"
	need apt-get mmdebstrap tar
	# shellcheck source=/dev/null
	. /etc/os-release
	keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	[ -n "$(sources)" ] || die "apt has no Debian sources of $VERSION_CODENAME here (does 'apt-get update' work?)"
	need_ids
	make_scratch
	mkdir "$scratch/root"

	say "bootstrapping Debian $VERSION_ID"
	bootstrap | as_root tar --extract --directory="$scratch/root" --xattrs --xattrs-include='security.*' --exclude='./dev/*'
	say "putting the image together"
	as_root "$0" --finish "$(dirname "$0")/files" "$scratch/root"
	pack_image "$1" "$scratch/root" "$VERSION_ID"
}
