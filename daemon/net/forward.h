/*
 * Forwarding of the host's own interfaces, switched on for those that carry a route, with the old values in a file.
 */
#pragma once

#include <net/if.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* Interfaces whose forwarding we switched on, with what it would be without us: the contents of the file, one "name value" a
 * line behind "boot <boot id>". FORWARD_ALL is the host's own switch, as we last saw it; the kernel lets no interface have
 * that name. */
#define FORWARD_ALL "all"
struct forward_entry {
	char name[IFNAMSIZ];
	bool old;
};
struct forward_file {
	struct forward_entry *v;
	size_t n;
};
void forward_file_done(struct forward_file *f);

/* Note where net.ipv4.ip_forward stands. Whoever moves it gives all interfaces its value, ours too: after that a host that
 * somebody made a router is one, and one that somebody closed is closed. False: it is as it was. */
bool forward_note_all(struct forward_file *f, bool on);

/* The names of those that forward only because of us. */
void forward_ours(const struct forward_file *f, struct strv *ret);

/* Parse the file of this boot. Lines that aren't ours are skipped; a file of another boot is empty, for the kernel has
 * forgotten what we did then. */
void forward_parse(const char *text, const char *boot_id, struct forward_file *ret);
void forward_format(const struct forward_file *f, const char *boot_id, struct buf *ret);

/* Switch forwarding on for each interface with a route, noting before the old value in `state_dir`/forwarding, and telling
 * the firewall, which must be installed, so that such an interface forwards for VMs only. Those that are gone are
 * forgotten. One whose name can't be said in a rule stays off. Adds the names of those that changed to `changed` if that isn't NULL. */
int forward_apply(const char *state_dir, struct strv *changed, struct fcm_error *err) must_check;

/* The interfaces that forward for VMs only, by the file. */
int forward_for_vms(const char *state_dir, struct strv *ret, struct fcm_error *err) must_check;

/* Whether forward_apply() has seen the interface. */
bool forward_knows(int index);

/* Put the old values back and remove the file; interfaces that are gone are skipped. */
int forward_restore(const char *state_dir, struct fcm_error *err) must_check;
