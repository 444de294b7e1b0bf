/*
 * A tunnel into a VM, joined to two descriptors.
 */
#pragma once

#include "common/httpc.h"

enum { SESSION_NO_KEY = -1 };
enum { SESSION_ENDED, SESSION_LEFT };

/* Write without blocking and without O_NONBLOCK, which would also change the flags for others that share this pipe or
 * terminal: when poll(2) has said that there is room. Like write(2). */
ssize_t session_write(int fd, const char *p, size_t n);

struct session {
	int in, out; /* in: or -1 */
	int leave;   /* the byte in `in` that ends it, or SESSION_NO_KEY */
	bool mute;   /* but for that byte, what comes from `in` is thrown away */
	/* After the end of `in`, leave when nothing came for so long. 0: tell the other side of that end, and stay. */
	int quiet_ms;
};

/* Move bytes from `in` to the tunnel and from the tunnel to `out` until the VM's side ends (SESSION_ENDED), or until
 * that key or quiet_ms say so (SESSION_LEFT). The end of `in` ends that direction only. Does not change the
 * flags of the descriptors, which others share. */
int session_run(const struct session *s, struct httpc_tunnel *t, struct fcm_error *err) must_check;
