#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/core/kv.h"
#include "daemon/oci/oci.h"

enum { PROGRESS_MS = 100, PROGRESS_IDS = 16 };

static void send_packet(const struct buf *b)
{
	while (send(OCI_SOCKET, b->p, b->n, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			_exit(1); /* nobody waits for us any more */
}

/* Is it time again to say something of `id`? */
static bool due(const char *id)
{
	static struct {
		char id[72];
		int64_t next;
	} told[PROGRESS_IDS];
	static size_t oldest;
	int64_t now = clock_ms();

	for (size_t i = 0; i < PROGRESS_IDS; i++)
		if (strcmp(told[i].id, id) == 0) {
			if (now < told[i].next)
				return false;
			told[i].next = now + PROGRESS_MS;
			return true;
		}
	(void)fcm_copy(told[oldest].id, sizeof told[oldest].id, id);
	told[oldest].next = now + PROGRESS_MS;
	oldest = (oldest + 1) % PROGRESS_IDS;
	return true;
}

void oci_progress(const char *what, const char *id, uint64_t current, uint64_t total)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	_cleanup_(buf_done) struct buf b = {0};

	pthread_mutex_lock(&lock);
	bool say = due(id);
	pthread_mutex_unlock(&lock);
	if (!say && (total == 0 || current < total))
		return;
	kv_add(&b, "progress", what);
	kv_add(&b, "id", id);
	kv_addf(&b, "current", "%llu", (unsigned long long)current);
	kv_addf(&b, "total", "%llu", (unsigned long long)total);
	send_packet(&b);
}

void oci_say(const char *fmt, ...)
{
	_cleanup_(buf_done) struct buf b = {0};
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof text, fmt, args);
	va_end(args);
	fcm_make_printable(text);
	kv_add(&b, "said", text);
	send_packet(&b);
}

void oci_fail(const struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf b = {0};

	kv_add(&b, "error", err->msg);
	kv_add(&b, "code", fcm_code_info(err->code)->wire);
	if (err->field[0])
		kv_add(&b, "field", err->field);
	if (err->hint[0])
		kv_add(&b, "hint", err->hint);
	send_packet(&b);
}

void oci_done(const struct buf *results)
{
	_cleanup_(buf_done) struct buf b = {0};

	kv_add(&b, "ok", "1");
	buf_add(&b, results->p, results->n);
	send_packet(&b);
}
