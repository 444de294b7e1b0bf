/*
 * The VMM's sockets, from the daemon's side. They lie in a directory that belongs to the VM's uid, and who speaks there
 * may be a process that a guest has taken over: every wait has a deadline, and nothing but a socket is connected to.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* Connect to the socket `name` in <id>/jail/run, retrying until the deadline while it isn't there yet: a starting VMM
 * needs 20 to 40 ms. A non-blocking descriptor, the caller's. FCM_TIMEOUT; FCM_VMM when the shim has said that the VMM
 * ended (<id>/exit); FCM_HOST when something else than a socket is there. */
int vmm_connect(int run_dirfd, const char *name, int64_t deadline, struct fcm_error *err) must_check;

/* Wait for `events` of poll(2). FCM_TIMEOUT. */
int vmm_wait(int fd, short events, int64_t deadline, struct fcm_error *err) must_check;

/* Send all n bytes. FCM_TIMEOUT; FCM_VMM when the other end has closed. */
int vmm_send(int fd, const void *data, size_t n, int64_t deadline, struct fcm_error *err) must_check;

/* The same, with a copy of the descriptor `passed` for the other end (unix(7), SCM_RIGHTS). */
int vmm_send_fd(
	int fd, const void *data, size_t n, int passed, int64_t deadline, struct fcm_error *err) must_check;

/* Wait for bytes and take at most `max` of them. How many; 0 at the end of the stream; -1 with FCM_TIMEOUT or FCM_VMM. */
ssize_t vmm_receive(int fd, void *data, size_t max, int64_t deadline, struct fcm_error *err) must_check;

/* Make foreign text of n bytes fit for an error message: printable, one line. */
void vmm_clean(char *text, size_t n);
