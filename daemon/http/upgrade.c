/*
 * Leaving HTTP (RFC 9110, section 7.8). libmicrohttpd calls us on the connection's own thread, so `run` may block there
 * for hours. The descriptor stays libmicrohttpd's.
 */
#include <fcntl.h>

#include "daemon/http/internal.h"

struct upgrade {
	struct request *rq;
	void (*run)(void *arg, int fd, const void *extra, size_t n); /* NULL once called */
	void *arg;
};

static void on_upgrade(void *cls, struct MHD_Connection *mhd, void *context, const char *extra, size_t n,
	MHD_socket fd, struct MHD_UpgradeResponseHandle *handle)
{
	struct upgrade *u = cls;

	(void)mhd, (void)context;
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	if (request_deadline(u->rq, FCM_FOREVER))
		STEAL(u->run)(u->arg, fd, extra, n);
	upgrade_end(u->rq);
	MHD_upgrade_action(handle, MHD_UPGRADE_ACTION_CLOSE);
}

void upgrade_end(struct request *rq)
{
	struct upgrade *u = rq->upgrade;

	if (!u)
		return;
	rq->upgrade = NULL;
	if (u->run)
		STEAL(u->run)(u->arg, -1, NULL, 0);
	free(u);
}

bool http_wants_upgrade(const struct request *rq, const char *protocol)
{
	return rq->head.minor > 0 && head_has_word(&rq->head, "connection", "upgrade") &&
	       head_has_word(&rq->head, "upgrade", protocol);
}

int http_upgrade(struct request *rq, const char *protocol,
	void (*run)(void *arg, int fd, const void *extra, size_t n), void *arg)
{
	struct fcm_error err;

	if (!http_wants_upgrade(rq, protocol)) {
		run(arg, -1, NULL, 0);
		fcm_fail(&err, FCM_BAD_REQUEST, "this path speaks %s after an upgrade", protocol);
		fcm_hint(&err, "send Connection: Upgrade and Upgrade: %s", protocol);
		return reply_error(rq, &err);
	}
	rq->upgrade = xalloc(sizeof *rq->upgrade);
	*rq->upgrade = (struct upgrade){rq, run, arg};
	struct MHD_Response *r = MHD_create_response_for_upgrade(on_upgrade, rq->upgrade);
	if (r)
		MHD_add_response_header(r, "Upgrade", protocol);
	return reply_queue(rq, 101, NULL, r, clock_in(PATIENCE_MS));
}
