/*
 * A connection that left HTTP, joined to a socket that leads into a VM: for the tunnel and the console.
 */
#pragma once

#include <stddef.h>

#include "common/core/error.h"
#include "common/core/util.h"

struct vm;

struct relay {
	struct vm *vm;	   /* held by the caller */
	int client, guest; /* connected stream sockets, the caller's */
	/* May what the client sends go on now? Where not, it is thrown away. What is put into *note, when that isn't NULL,
	 * is said to the client. Asked each round, at least once a second. NULL: always. */
	bool (*may_send)(void *arg, struct buf *note);
	void *arg;
	bool no_half; /* the end of what the client sends ends all of it */
};

/* Is the VM running or about to? FCM_WRONG_STATE otherwise. */
int relay_vm_runs(struct vm *vm, struct fcm_error *err) must_check;

/* Move bytes both ways, first the n that the client sent too early, until both sides have ended, one is gone, the VM
 * doesn't run any more, or the server stops. The end of one direction is passed on. */
void relay_run(const struct relay *r, const void *extra, size_t n);
