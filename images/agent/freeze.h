/*
 * Every process of the guest stands still but the agent: for the moment in which its memory and disks are saved, and in a
 * clone until that has an identity of its own (docs/AGENT.md, "Freeze").
 *
 * Theory of operation. The freezer of cgroup v2 (kernel Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze) stops a
 * process where nobody sees it: no parent is told, no signal is lost, and what it holds in the kernel it holds outside. All
 * groups at the top of the tree are frozen, whoever made them, and with them all below. The root group can't be: the agent is
 * in it meanwhile, and what else is there (in an image without systemd all) is moved into a group of ours, and back at the
 * thaw. Whoever forks while we move leaves a child behind, so this is done in rounds, until one finds nothing to do.
 *
 * Nothing waits: freeze_tick() does a round each FREEZE_LOOK_MS. sync(2) has a process of its own, for it may take as long as
 * the disk likes, or for ever, when a file system is served by a process that is frozen.
 *
 * A freeze is a lease: when it is over, all goes on by itself, so no host that dies leaves a guest frozen.
 */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/core/error.h"
#include "images/agent/channel.h"

enum {
	FREEZE_FDS = 1,
	FREEZE_HOLD_MAX_MS = 120000,
	FREEZE_GIVE_UP_MS = 5000, /* for all to stand still */
	FREEZE_LOOK_MS = 5,	  /* between two rounds */
	FREEZE_GROUPS_MAX = 1024, /* at the top of the tree */
};

enum freeze_phase { FREEZE_NONE, FREEZE_BEGUN, FREEZE_DONE };

struct freezer {
	int root;    /* the root of the tree, not ours to close; -1: there is none */
	int syncing; /* pidfd of sync(2), or -1 */
	enum freeze_phase phase;
	struct strv groups;	  /* those that we have frozen */
	bool sync;		  /* it is wanted before the answer */
	uint32_t asked;		  /* the request that waits for it, or 0 */
	int64_t until;		  /* the lease; this and what follows on clock_ms() */
	int64_t give_up, look_at; /* while it has begun */
};

/* Nothing is frozen; `root` is a descriptor of the tree's root, or -1. */
void freeze_init(struct freezer *f, int root);

/* op=freeze, request `number`: answered by freeze_tick(). */
int freeze_begin(
	struct freezer *f, uint32_t number, const void *kv, size_t n, struct fcm_error *err) must_check;

/* All goes on. A freeze that waits for its answer gets `why`. Returns whether anything was frozen. */
bool freeze_thaw(struct freezer *f, struct channel *c, const char *why);

/* A new session: nobody waits for an answer any more. What is frozen stays so. */
void freeze_forget_host(struct freezer *f);

/* Is anything frozen, or about to be? */
bool freeze_is_on(const struct freezer *f);

/* Go on where it is time to, and answer. */
void freeze_tick(struct freezer *f, struct channel *c);
int64_t freeze_deadline(const struct freezer *f);

/* Fill in FREEZE_FDS entries for poll(2); freeze_tick() serves them. */
void freeze_poll(const struct freezer *f, struct pollfd *fds);
