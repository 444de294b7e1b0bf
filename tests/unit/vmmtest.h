/*
 * What the tests of daemon/vmm share: a VM as the engine describes it, its directory, and who answers at its sockets.
 */
#pragma once

#include <pthread.h>

#include "daemon/vmm/vmm.h"

/* A VM of that driver's, whose paths aren't there. */
struct vmm_config vmmtest_config(const char *binary, enum vmm_accel accel);

/* The same strings in the same order; `want` ends with NULL. */
void vmmtest_list(const struct strv *got, const char *const *want);

/* Fixtures: <id>/jail/run of a directory of the test's own, open. */
extern int vmmtest_run;
int vmmtest_setup(void **state);
int vmmtest_teardown(void **state);

/* Who answers at a socket: each connection, once something has come, gets its text and is closed; NULL: it is held open
 * in silence until the end. */
struct vmmtest_peer {
	int listen_fd;
	pthread_t thread;
	const char *const *says;
	size_t n;
	char got[2048]; /* what came on the last connection */
};
void vmmtest_begin(struct vmmtest_peer *p, const char *socket, const char *const *says, size_t n);

/* Wait until all n were served. */
void vmmtest_end(struct vmmtest_peer *p);
