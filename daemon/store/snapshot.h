/*
 * Snapshots: directories that hold a VM as it was.
 *
 *	<state>/snapshots/<id>/snapshot.json	what it is: struct snapshot
 *	                       disk		the VM's writable disk, a sparse file
 *	                       volume0, ...	its volumes that go with it, by their places in its list
 *	                       state, memory	the machine itself (daemon/vmm/vmm.h), of a VM that ran
 *	<state>/<id>/saved/			the same, without disk and volumes: what VM <id> begins with at its next start
 *
 * One is made under a name that begins with a dot and becomes visible, whole, by a rename. All is root's alone. A file that has
 * another size or time than snapshot.json says is hashed again before it is used, and refused when it has changed.
 */
#pragma once

#include "common/model.h"

#define SNAPSHOT_MANIFEST "snapshot.json"
#define SNAPSHOT_DISK "disk"
#define SNAPSHOT_VOLUME "volume%zu" /* from 0 */

enum { SNAPSHOT_SCHEMA = 1, SNAPSHOT_FILES = 3 + VM_MAX_VOLUMES };

struct snapshot_file {
	char name[16];
	int64_t size;	  /* bytes, with its holes */
	int64_t mtime_ns; /* when it was last written */
	char sum[65];	  /* snapshot_sum() */
};

/* What runs a machine, and can load it again. */
struct snapshot_machine {
	char vmm[16], vmm_version[32], accel[8];
	char cpu[64], cpu_flags[65]; /* of the host, where the guest sees it: model, SHA-256 of the flags */
};

struct snapshot {
	uint32_t schema;
	char id[9];
	char name[64], note[256];
	int64_t created;
	char parent[9]; /* the snapshot that its VM began as, or "" */
	bool memory;	/* the machine is in it, which goes on where it was; else its VM boots */
	bool frozen;	/* no program runs on before the agent lets it: it can become another VM */
	int64_t pause_ms;
	struct snapshot_machine machine;
	struct vm_view
		vm; /* as config.json had it; of one that was imported vm.id is its own id: it is of no VM here */
	size_t n_files;
	struct snapshot_file files[SNAPSHOT_FILES];
};
void snapshot_done(struct snapshot *s);

/* What it says of its file of that name, or NULL. */
const struct snapshot_file *snapshot_file(const struct snapshot *s, const char *name);

/* The names that files of one may have, but for snapshot.json. */
void snapshot_names(struct strv *ret);

/* The object of the API and of snapshot.json; `secrets` with env in the clear. The caller's value. */
field_json *snapshot_json(const struct snapshot *s, bool secrets);

/* Read snapshot.json in dirfd. FCM_CONFIG when it is broken or of a newer schema; *ret is written only on success, and the
 * caller's. */
int snapshot_read(int dirfd, struct snapshot *ret, struct fcm_error *err) must_check;

/* Finish one: note the files in dirfd, with their sums, and write snapshot.json; all of it is on the disk then. */
int snapshot_seal(int dirfd, struct snapshot *s, struct fcm_error *err) must_check;

/* The same of one that goes with the operation that made it: without sums, so a file that changes makes it one that can't be used,
 * and it needn't last. */
int snapshot_seal_passing(int dirfd, struct snapshot *s, struct fcm_error *err) must_check;

/* Take what a job left in dirfd, as a stranger, for root: regular files alone. *ret is what snapshot.json says, the caller's:
 * a stranger's word. */
int snapshot_take_over(int dirfd, struct snapshot *ret, struct fcm_error *err) must_check;

/* Finish one whose files somebody else listed: snapshot_seal(), and FCM_INVALID naming the first that isn't what was said. What
 * was said of their times counts for nothing. */
int snapshot_seal_same(int dirfd, struct snapshot *s, struct fcm_error *err) must_check;

/* Are the files the ones that were sealed: all of them, or those of the machine alone? FCM_CONFIG naming the first that is
 * missing or has changed. */
int snapshot_check(int dirfd, const struct snapshot *s, bool machine, struct fcm_error *err) must_check;

/* BLAKE2b-256, as hex, of the blocks of 64 KiB that aren't all zeros, each with its number before it (8 bytes, little-endian):
 * so holes cost nothing, wherever they are. */
int snapshot_sum(int fd, char ret[65], struct fcm_error *err) must_check;

/* Pure: can a machine of `saved` go on where `here` is? FCM_WRONG_STATE saying what differs. */
int snapshot_fits(const struct snapshot_machine *saved, const struct snapshot_machine *here,
	struct fcm_error *err) must_check;

/* ---- the directory of them ---- */

/* Open <state>/snapshots (made if missing) and remove what a daemon that was killed left half-made. */
int snapshots_init(int state_dirfd, struct fcm_error *err) must_check;

/* Begin one: an empty directory that nobody sees yet. Its descriptor, or -1. snapshots_publish() makes it visible;
 * snapshots_remove() takes away either (a missing one is fine; adds the bytes it freed to *freed unless that is NULL). */
int snapshots_begin(const struct vm_id *id, struct fcm_error *err) must_check;
int snapshots_publish(const struct vm_id *id, struct fcm_error *err) must_check;
int snapshots_remove(const struct vm_id *id, uint64_t *freed, struct fcm_error *err) must_check;

/* Open a visible one. FCM_NOT_FOUND. */
int snapshots_open(const struct vm_id *id, struct fcm_error *err) must_check;

/* The ids of the visible ones, sorted. */
int snapshots_list(struct strv *ret, struct fcm_error *err) must_check;
