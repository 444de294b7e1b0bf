/*
 * What the tests of the agent share: an agent that has its root, on a socketpair whose other end is the host's, and one round of
 * both. Programs that it starts are real ones.
 */
#pragma once

#include "images/agent/session.h"

struct agenttest {
	struct agent agent;
	int host;	/* non-blocking */
	struct buf got; /* what the host has read and not taken yet */
};

/* Make it, in zeroed memory. Returns 0, or -1. */
int agenttest_begin(struct agenttest *t);

/* End it and all programs that it started. */
void agenttest_end(struct agenttest *t);

/* Send from the host. */
void agenttest_send(struct agenttest *t, const struct buf *b);

/* One round of the agent's loop, as main.c has it, and of the host, which gives each frame to `take`. */
void agenttest_round(struct agenttest *t, void (*take)(void *arg, const struct frame *f), void *arg);
