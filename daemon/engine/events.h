/*
 * What happened to VMs. An event is a change of what the API shows of one: registry_changed() compares with what was last told,
 * so no operation has to think of it, and none can be forgotten.
 *
 * The last EVENTS_KEPT are in memory, and a thread of their own writes them down (<state>/events.jsonl, and what was before
 * it in events.jsonl.1), so that they outlive the daemon. Numbers grow by one and never repeat, over restarts as well: a
 * daemon begins EVENTS_SKIPPED behind the last one that it finds, since a power cut may have taken some that were told.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum {
	EVENTS_KEPT = 1024,
	EVENTS_FILE = 256 << 10, /* bytes, of each of the two */
	EVENTS_SKIPPED = 1000,
};

struct vm;

/* Read what a daemon before wrote, and begin to write. The registry is empty. */
int events_start(int state_dirfd, struct fcm_error *err) must_check;
void events_stop(void); /* waits until all is written */

/* The VM may have changed. Called by registry_changed() with the registry's lock held. */
void events_note(struct vm *vm);

/* What the VM is now is no news: it was loaded from disk. With the lock held. */
void events_known(struct vm *vm);

/* The names of events, ended by NULL: those of states, and what else can be told. */
extern const char *const event_names[];

struct event_filter {
	int64_t since;	  /* a time; 0: all */
	const char *vm;	  /* a name or an id; NULL: of all VMs */
	const char *name; /* of event_names; NULL: all */
	const char *only; /* a label that the VM had then, "K=V"; NULL: of all VMs */
};

struct event {
	uint64_t number;
	const char *name; /* of event_names */
	char *text;	  /* a JSON object; the caller's */
};

/* The first event behind number `*after` that the filter lets through. *after becomes its number, or that of the last one
 * that was looked at. False when there is none. *ret_lost: the number of the oldest that is kept, when some behind *after are
 * gone; else 0. */
bool events_next(uint64_t *after, const struct event_filter *filter, struct event *ret, uint64_t *ret_lost);

/* The number of the newest, 0 before there is one. */
uint64_t events_last(void);
