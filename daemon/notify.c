#include "daemon/notify.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/core/clock.h"

static struct sockaddr_un manager;
static socklen_t manager_len; /* 0: nobody wants to be told */

static int64_t every_ms; /* half of WATCHDOG_USEC, 0: no watchdog */
static struct loop_source *timer;

static void find_manager(void)
{
	const char *path = getenv("NOTIFY_SOCKET");

	manager.sun_family = AF_UNIX;
	if (path == NULL || !fcm_copy(manager.sun_path, sizeof manager.sun_path, path))
		return;
	manager_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (manager.sun_path[0] == '@') /* an abstract address: unix(7) */
		manager.sun_path[0] = '\0';
}

/* WATCHDOG_PID says whom the other variable is for: it may be inherited. */
static void find_watchdog(void)
{
	const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	int64_t value;

	if (pid && (!fcm_parse_i64(pid, 1, INT32_MAX, &value) || value != getpid()))
		return;
	if (usec && fcm_parse_i64(usec, 2000, INT64_MAX, &value))
		every_ms = value / 2000;
}

void notify_init(void)
{
	find_manager();
	find_watchdog();
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
}

void notify_send(const char *state)
{
	auto_close int fd = manager_len ? socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;

	if (fd >= 0)
		(void)!sendto(
			fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&manager, manager_len);
}

static void on_timer(void *arg, uint32_t events)
{
	(void)arg;
	(void)events;
	notify_send("WATCHDOG=1");
	loop_set_timer(timer, clock_in(every_ms));
}

int notify_watchdog(struct loop *loop, struct fcm_error *err)
{
	return every_ms ? loop_add_timer(loop, clock_in(every_ms), on_timer, NULL, &timer, err) : 0;
}
