/*
 * The threads that serve requests. A handler may block for as long as it likes, so each request has a thread to itself;
 * but libmicrohttpd's own thread-per-connection mode makes and joins a thread for each, and a connection that is handed
 * to it goes through its polling thread first, which halved the number of requests a second. So a worker is our thread
 * with a libmicrohttpd daemon of its own in external mode, which has one connection at a time: everything of a request
 * from here on happens on that thread, callbacks included, and the next request finds thread and buffers warm.
 *
 * There are as many workers as requests at once, made when one is missing; those that find nothing to do for a while end.
 */
#include <errno.h>

#include "daemon/http/internal.h"

enum {
	CONNECTION_MEMORY = 32768, /* bytes of libmicrohttpd's buffers for a connection: twice a head */
	THREAD_STACK = 1 << 20,
	IDLE_MS = 10000, /* before a worker that has nothing to do ends */
};

struct worker {
	struct MHD_Daemon *mhd;
	struct request *rq;
};

/* Under server.lock. */
static struct request_list queue = TAILQ_HEAD_INITIALIZER(queue);
static unsigned n_queued, n_idle;
static pthread_cond_t work;

/* ---- the callbacks of libmicrohttpd ---- */

static void on_connection(
	void *cls, struct MHD_Connection *mhd, void **context, enum MHD_ConnectionNotificationCode code)
{
	struct worker *w = cls;

	(void)context;
	switch (code) {
	case MHD_CONNECTION_NOTIFY_STARTED:
		w->rq->mhd = mhd;
		break;
	case MHD_CONNECTION_NOTIFY_CLOSED:
		/* The last moment at which the descriptor is still open. */
		if (w->rq)
			gate_done(STEAL(w->rq));
		break;
	}
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *mhd, const char *url, const char *method,
	const char *version, const char *data, size_t *n, void **context)
{
	struct worker *w = cls;

	(void)mhd, (void)url, (void)method, (void)version, (void)context;
	return request_step(w->rq, data, n);
}

static void on_completed(
	void *cls, struct MHD_Connection *mhd, void **context, enum MHD_RequestTerminationCode code)
{
	struct worker *w = cls;

	(void)mhd, (void)context, (void)code;
	request_end(w->rq);
}

/* ---- a worker's life ---- */

/* Release 0.9.75 starts the connection within MHD_add_connection(), 1.0 in the first MHD_run_wait(). One that isn't started
 * then (no memory) has been closed without a word to us. */
static void serve(struct worker *w, struct request *rq)
{
	struct sockaddr address = {.sa_family = rq->is_unix ? AF_UNIX : AF_INET};

	w->rq = rq;
	if (MHD_add_connection(w->mhd, rq->fd, &address, sizeof address) == MHD_YES)
		while (MHD_run_wait(w->mhd, -1) == MHD_YES && w->rq && w->rq->mhd)
			;
	if (w->rq)
		gate_lost(STEAL(w->rq));
}

static struct request *next_locked(void)
{
	struct timespec until = clock_monotonic(clock_in(IDLE_MS));
	struct request *rq;

	n_idle++;
	while (!(rq = TAILQ_FIRST(&queue)) && !atomic_load(&server.quit))
		if (pthread_cond_timedwait(&work, &server.lock, &until) == ETIMEDOUT && TAILQ_EMPTY(&queue))
			break;
	n_idle--;
	if (rq) {
		TAILQ_REMOVE(&queue, rq, queued);
		n_queued--;
	}
	return rq;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	pthread_mutex_lock(&server.lock);
	for (struct request *rq; (rq = next_locked());) {
		pthread_mutex_unlock(&server.lock);
		serve(w, rq);
		pthread_mutex_lock(&server.lock);
	}
	pthread_mutex_unlock(&server.lock);
	MHD_stop_daemon(w->mhd);
	free(w);
	pthread_mutex_lock(&server.lock);
	server.n_workers--;
	pthread_cond_broadcast(&server.left);
	pthread_mutex_unlock(&server.lock);
	return NULL;
}

static struct MHD_Daemon *start_mhd(struct worker *w)
{
	unsigned flags = MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ITC | MHD_ALLOW_UPGRADE;

	return MHD_start_daemon(flags, 0, NULL, NULL, on_request, w, MHD_OPTION_NOTIFY_CONNECTION,
		on_connection, w, MHD_OPTION_NOTIFY_COMPLETED, on_completed, w, MHD_OPTION_CONNECTION_LIMIT,
		1U, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
		MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
}

static bool start_thread(struct worker *w)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	int r = pthread_create(&thread, &attr, worker_main, w);
	pthread_attr_destroy(&attr);
	return r == 0;
}

static int start_worker(struct fcm_error *err)
{
	struct worker *w = xalloc(sizeof *w);

	w->mhd = start_mhd(w);
	if (!w->mhd) {
		free(w);
		return fcm_fail(err, FCM_UNAVAILABLE, "no descriptors or memory for one more request");
	}
	pthread_mutex_lock(&server.lock);
	server.n_workers++;
	pthread_mutex_unlock(&server.lock);
	if (start_thread(w))
		return 0;
	pthread_mutex_lock(&server.lock);
	server.n_workers--;
	pthread_mutex_unlock(&server.lock);
	MHD_stop_daemon(w->mhd);
	free(w);
	return fcm_fail(err, FCM_UNAVAILABLE, "no thread for one more request");
}

int worker_ready(struct fcm_error *err)
{
	pthread_mutex_lock(&server.lock);
	bool full = server.n_served >= server.config.max_connections;
	bool enough = n_idle > n_queued;
	pthread_mutex_unlock(&server.lock);
	if (full)
		return fcm_fail(
			err, FCM_UNAVAILABLE, "%u requests are being served", server.config.max_connections);
	return enough ? 0 : start_worker(err);
}

void worker_add_locked(struct request *rq)
{
	TAILQ_INSERT_TAIL(&queue, rq, queued);
	n_queued++;
	pthread_cond_signal(&work);
}

void worker_init(void)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&work, &attr);
	pthread_cond_init(&server.left, &attr);
	pthread_condattr_destroy(&attr);
}

void worker_quit(void)
{
	pthread_mutex_lock(&server.lock);
	pthread_cond_broadcast(&work);
	pthread_mutex_unlock(&server.lock);
}
