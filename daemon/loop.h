/*
 * The daemon's event loop: one epoll instance run by the main thread, for what isn't a request: signals, pidfds of
 * shims, agent channels, netlink, timers. (sd-event allows one thread per object; HTTP threads must add sources.)
 *
 * Any thread may add, change and remove sources. Callbacks run on the loop's thread, one at a time, and must not block.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

struct loop;
struct loop_source;

/* `events` are those of epoll_wait(2); 0 for a timer. */
typedef void (*loop_fn)(void *arg, uint32_t events);

/* Make a loop. FCM_UNAVAILABLE or FCM_HOST when the kernel has no descriptor for it. */
int loop_new(struct loop **ret, struct fcm_error *err) must_check;

/* Free a loop that nobody runs. Sources that are left are removed. NULL-safe. */
void loop_free(struct loop *loop);

/* Call fn(arg, events) whenever one of `events` (EPOLLIN, EPOLLOUT) is there; EPOLLHUP and EPOLLERR always are. The
 * descriptor stays the caller's, who removes the source before closing it. */
int loop_add(struct loop *loop, int fd, uint32_t events, loop_fn fn, void *arg, struct loop_source **ret,
	struct fcm_error *err) must_check;

/* Change what a descriptor's source waits for. */
void loop_change(struct loop_source *source, uint32_t events);

/* Call fn(arg, 0) once, when `deadline` (clock_ms()) has come. The source stays until removed. */
int loop_add_timer(struct loop *loop, int64_t deadline, loop_fn fn, void *arg, struct loop_source **ret,
	struct fcm_error *err) must_check;

/* Set a timer's source to another deadline. */
void loop_set_timer(struct loop_source *source, int64_t deadline);

/* Remove a source (NULL-safe). When it returns, its callback isn't running and won't run again, unless the caller is
 * that callback. Never call it from another thread while holding a lock that the callback takes. */
void loop_remove(struct loop_source *source);

/* Run until loop_stop(), on the calling thread. */
int loop_run(struct loop *loop, struct fcm_error *err) must_check;

/* End loop_run() when the callbacks that are due have run; one that has not begun yet ends at once. Any thread, also a
 * signal handler. */
void loop_stop(struct loop *loop);
