/*
 * Two connected stream sockets, joined: a tunnel, the console, a published port that somebody on this host reached.
 */
#pragma once

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

struct relay {
	int client, guest; /* connected stream sockets, the caller's */
	int stop_fd;	   /* ends all of it when it becomes readable */
	/* May it go on? Asked once a second while nothing moves. NULL: yes. */
	bool (*goes_on)(void *arg);
	/* May what the client sends go on now? Where not, it is thrown away. What is put into *note, when that isn't NULL,
	 * is said to the client. Asked each round, at least once a second. NULL: always. */
	bool (*may_send)(void *arg, struct buf *note);
	void *arg;
	bool no_half; /* the end of what the client sends ends all of it */
};

/* Move bytes both ways, first the n that the client sent too early, until both sides have ended, one is gone, it may not go
 * on, or stop_fd is readable. The end of one direction is passed on. */
void relay_run(const struct relay *r, const void *extra, size_t n);

/* Connect to a TCP port of a guest, within some seconds. `name` is for the message. The caller's descriptor. FCM_TIMEOUT,
 * FCM_GUEST. */
int relay_connect(struct in_addr ip, uint16_t port, const char *name, struct fcm_error *err) must_check;
