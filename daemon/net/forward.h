/*
 * Forwarding of the host's own interfaces, switched on for those that carry a route, with the old values in a file.
 */
#pragma once

#include <net/if.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* Interfaces whose forwarding we switched on, with what it would be without us. The file has a line "name value index" of each, behind
 * "boot <boot id>" and "all value", the host's own switch as we last saw it; the kernel lets no interface be called so. */
struct forward_entry {
	char name[IFNAMSIZ];
	int index; /* 0: from an older fcm, which didn't know */
	bool old;
};
struct forward_file {
	bool all_seen, all;
	struct forward_entry *v;
	size_t n;
};
void forward_file_done(struct forward_file *f);

/* Note where net.ipv4.ip_forward stands; `moved`: somebody has set it. Whoever does gives all interfaces its value, ours too: after
 * that a host that somebody made a router is one, and one that somebody closed is closed. False: nothing is new. */
bool forward_note_all(struct forward_file *f, bool on, bool moved);

/* The names of those that forward only because of us. */
void forward_ours(const struct forward_file *f, struct strv *ret);

/* Parse the file of this boot. Lines that aren't ours are skipped; a file of another boot is empty, for the kernel has
 * forgotten what we did then. */
void forward_parse(const char *text, const char *boot_id, struct forward_file *ret);
void forward_format(const struct forward_file *f, const char *boot_id, struct buf *ret);

/* Switch forwarding on for each interface with a route, noting before the old value in `run_dir`/forwarding, and telling
 * the firewall, which must be installed, so that such an interface forwards for VMs only. Those that are gone are
 * forgotten, and one that was renamed keeps its old value. One whose name can't be said in a rule stays off. `moved`: somebody set
 * net.ipv4.ip_forward since the last call. Adds the names of those that changed to `changed` if that isn't NULL. */
int forward_apply(const char *run_dir, bool moved, struct strv *changed, struct fcm_error *err) must_check;

/* The interfaces that forward for VMs only, by the file. */
int forward_for_vms(const char *run_dir, struct strv *ret, struct fcm_error *err) must_check;

/* Whether forward_apply() has seen the interface, under that name or (NULL) any. */
bool forward_knows(int index, const char *name);

/* Put the old values back and remove the file; interfaces that are gone are skipped. */
int forward_restore(const char *run_dir, struct fcm_error *err) must_check;
