/*
 * How it works. libmicrohttpd 0.9.75 forgives too much (a bare LF, NUL in a header, folding, Content-Length beside
 * Transfer-Encoding, two Hosts), hides it from the handler, and knows timeouts of inactivity only, which a client that
 * sends a byte now and then never meets. So the gate, one thread, accepts the connections itself and looks at each with
 * MSG_PEEK until the whole head is there, under one absolute deadline. It checks the raw bytes (guard.c), finds the
 * route (router.c) and checks the token (auth.c). Only what has passed is handed to libmicrohttpd with all its bytes
 * still in the socket; everything else gets its refusal here and never costs a thread. The handlers see what *we* have
 * parsed; libmicrohttpd does the bodies, the answers and the upgrades.
 *
 * A second request on the same connection would go past the gate, so every answer says "Connection: close". That
 * makes refusals and deadlines exact, and with warm threads (worker.c) it serves more requests a second than
 * libmicrohttpd's thread-per-connection mode does with closed connections. A request that is pipelined behind the
 * first is never looked at.
 *
 * Connections are in one of three places:
 *
 *	heads		waiting for a head: at most max_anonymous; the oldest gives way to a new one, so a flood of
 *			silent connections can only push out itself, for an honest client sends its head at once
 *	served		with a worker: at most max_connections, more are answered 503
 *	lingering	answered before all of the request was read: closing now would send a reset, which can destroy
 *			the answer before the client has read it, so what still comes is read and dropped for a while
 *
 * Heads are watched edge-triggered, for what was peeked at stays readable. The deadline of a request that is served is
 * set by its worker as it goes along (request.c); the gate looks once a second which are past.
 *
 * A request whose event may still be in the current batch is marked dead and freed after the batch.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "daemon/http/internal.h"

enum {
	BATCH = 64,
	PAUSE_MS = 100,	 /* for descriptors or memory to come back */
	SWEEP_MS = 1000, /* between two looks at the served ones */
};

/* The gate's own; `lingering` and `dead` are under server.lock, for workers add to them. */
static struct request_list heads = TAILQ_HEAD_INITIALIZER(heads);
static struct request_list lingering = TAILQ_HEAD_INITIALIZER(lingering);
static struct request_list dead = TAILQ_HEAD_INITIALIZER(dead);
static unsigned n_heads, n_lingering;
static int64_t paused_until, next_sweep;
static struct throttle throttle;

static void request_free(struct request *rq)
{
	request_end(rq);
	free(rq->text);
	buf_done(&rq->raw);
	free(rq);
}

static struct request *request_new(int fd, const struct listener *l, const struct sockaddr *peer)
{
	uint8_t random[6];
	struct request *rq = xalloc(sizeof *rq);

	rq->stage = STAGE_HEAD;
	rq->fd = fd;
	rq->is_unix = l->is_unix;
	rq->trusted = l->trusted;
	rq->peer = peer_of(peer);
	rq->deadline = clock_in((int64_t)server.config.header_seconds * 1000);
	if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
		abort();
	for (size_t i = 0; i < sizeof random; i++)
		(void)fcm_format(rq->id + 2 * i, 3, "%02x", random[i]);
	return rq;
}

static bool watch(struct request *rq, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.ptr = rq};

	if (epoll_ctl(server.epoll_fd, rq->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, rq->fd, &e) < 0)
		return false;
	rq->watched = true;
	return true;
}

/* Close a request's socket; an event of it may still be on its way. It is taken out of the epoll instance by hand, for
 * closing does that only when no copy of the descriptor is left, and a worker may still have one. */
static void bury_locked(struct request *rq)
{
	if (rq->stage == STAGE_LINGER) {
		TAILQ_REMOVE(&lingering, rq, entry);
		n_lingering--;
	} else if (rq->stage == STAGE_HEAD) {
		TAILQ_REMOVE(&heads, rq, entry);
		n_heads--;
	}
	if (rq->watched)
		epoll_ctl(server.epoll_fd, EPOLL_CTL_DEL, rq->fd, NULL);
	close(rq->fd);
	rq->stage = STAGE_DEAD;
	TAILQ_INSERT_TAIL(&dead, rq, entry);
}

static void bury(struct request *rq)
{
	pthread_mutex_lock(&server.lock);
	bury_locked(rq);
	pthread_mutex_unlock(&server.lock);
}

static void linger_locked(struct request *rq)
{
	if (n_lingering >= LINGER_MAX)
		bury_locked(TAILQ_FIRST(&lingering));
	rq->stage = STAGE_LINGER;
	rq->deadline = clock_in(LINGER_MS);
	TAILQ_INSERT_TAIL(&lingering, rq, entry);
	n_lingering++;
	shutdown(rq->fd, SHUT_WR);
	if (!watch(rq, EPOLLIN | EPOLLRDHUP))
		bury_locked(rq);
}

static void refuse(struct request *rq, const struct fcm_error *err)
{
	const struct fcm_code_info *info = fcm_code_info(err->code);

	request_audit(rq, info->http, info->wire);
	reply_direct(rq, err);
	pthread_mutex_lock(&server.lock);
	TAILQ_REMOVE(&heads, rq, entry);
	n_heads--;
	linger_locked(rq);
	pthread_mutex_unlock(&server.lock);
}

/* ---- from a head to a request ---- */

/* All that can be decided about a request before its body. */
static int admit(struct request *rq, size_t n, struct fcm_error *err)
{
	struct fcm_error route_error;

	if (guard_parse(rq->text, n, &rq->head, err) < 0 ||
		guard_origin(&rq->head, rq->trusted ? NULL : &server.hosts, err) < 0)
		return -1;
	bool found = router_match(routes, rq->head.method, rq->head.path, &rq->match, &route_error) == 0;
	if (rq->trusted)
		rq->token = (struct token_info){.name = "unix", .scope = SCOPE_FULL};
	else if (!(found && rq->match.route->need == NEED_NONE) &&
		 auth_check(&rq->head, &rq->peer, &throttle, &rq->token, err) < 0)
		return -1;
	if (!found) {
		*err = route_error;
		return -1;
	}
	const struct route *route = rq->match.route;
	if (auth_permit(route, &rq->token, err) < 0 ||
		router_query(route, rq->head.query, &rq->query, err) < 0)
		return -1;
	return router_body(route, &rq->head, err);
}

/* The next byte that libmicrohttpd reads is the first of the head that we have seen. From here on the descriptor is
 * its own. */
static void hand_over(struct request *rq)
{
	if (rq->watched)
		epoll_ctl(server.epoll_fd, EPOLL_CTL_DEL, rq->fd, NULL);
	rq->watched = false;
	TAILQ_REMOVE(&heads, rq, entry);
	n_heads--;
	pthread_mutex_lock(&server.lock);
	rq->stage = STAGE_SERVED;
	rq->deadline = clock_in((int64_t)server.config.header_seconds * 1000);
	TAILQ_INSERT_HEAD(&server.served, rq, entry);
	server.n_served++;
	worker_add_locked(rq);
	pthread_mutex_unlock(&server.lock);
}

/* Look at what has come. Returns true when the request has gone elsewhere, false when it must wait for more. */
static bool look(struct request *rq)
{
	static char bytes[HEAD_MAX];
	struct fcm_error err;
	ssize_t got = recv(rq->fd, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (got <= 0) {
		bury(rq);
		return true;
	}
	ssize_t n = guard_scan(bytes, (size_t)got, &err);
	if (n == 0)
		return false;
	if (n > 0) {
		rq->text = xalloc((size_t)n + 1);
		memcpy(rq->text, bytes, (size_t)n);
	}
	if (n > 0 && admit(rq, (size_t)n, &err) == 0 && worker_ready(&err) == 0)
		hand_over(rq);
	else
		refuse(rq, &err);
	return true;
}

/* ---- events ---- */

static void new_connection(int fd, const struct listener *l, const struct sockaddr *peer)
{
	struct request *rq = request_new(fd, l, peer);
	int one = 1;

	if (!l->is_unix)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (n_heads >= server.config.max_anonymous)
		bury(TAILQ_FIRST(&heads));
	TAILQ_INSERT_TAIL(&heads, rq, entry);
	n_heads++;
	if (!look(rq) && !watch(rq, EPOLLIN | EPOLLRDHUP | EPOLLET))
		bury(rq);
}

static void set_listening(bool on)
{
	for (unsigned i = 0; i < server.n_listeners; i++) {
		struct epoll_event e = {.events = on ? EPOLLIN : 0, .data.ptr = &server.listeners[i]};
		epoll_ctl(server.epoll_fd, EPOLL_CTL_MOD, server.listeners[i].fd, &e);
	}
	paused_until = on ? 0 : clock_in(PAUSE_MS);
}

/* accept(2) failed. A full table of descriptors makes room by the oldest anonymous one; without one the listeners
 * rest for a moment, or the loop would spin. */
static bool accept_again(void)
{
	switch (errno) {
	case EINTR:
	case ECONNABORTED:
	case EPROTO:
		return true;
	case EMFILE:
	case ENFILE:
	case ENOBUFS:
	case ENOMEM:
		if (!TAILQ_EMPTY(&heads)) {
			bury(TAILQ_FIRST(&heads));
			return true;
		}
		set_listening(false);
	}
	return false;
}

static void accept_some(const struct listener *l)
{
	for (int i = 0; i < BATCH; i++) {
		struct sockaddr_storage peer = {0};
		socklen_t size = sizeof peer;
		int fd = accept4(l->fd, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0)
			new_connection(fd, l, (struct sockaddr *)&peer);
		else if (!accept_again())
			return;
	}
}

/* Drop what the client still sends; a bounded piece at a time, for the gate has others to look at. */
static void drain_locked(struct request *rq)
{
	static char rubbish[65536];

	for (int i = 0; i < 4; i++) {
		ssize_t n = recv(rq->fd, rubbish, sizeof rubbish, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			bury_locked(rq);
			return;
		}
	}
}

static void connection_event(struct request *rq, uint32_t events)
{
	pthread_mutex_lock(&server.lock);
	bool waits = rq->stage == STAGE_HEAD;
	if (rq->stage == STAGE_LINGER)
		drain_locked(rq);
	pthread_mutex_unlock(&server.lock);
	if (waits && !look(rq) && events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		bury(rq);
}

/* ---- deadlines ---- */

/* Tell a request's worker that it is over: its poll(2) and its reads see the end of the stream. */
static void expire_served_locked(struct request *rq)
{
	struct fcm_error err;

	rq->deadline = FCM_FOREVER;
	fcm_fail(&err, atomic_load(&server.stopping) ? FCM_UNAVAILABLE : FCM_REQUEST_TIMEOUT,
		atomic_load(&server.stopping) ? "the daemon is stopping" : "the body came too slowly");
	request_abort_locked(rq, &err);
	shutdown(rq->fd, SHUT_RDWR);
}

/* With its token, or before its time: the answer, if there was none, and the end. */
static void unauthorize_locked(struct request *rq, const char *why)
{
	struct fcm_error err;

	fcm_fail(&err, FCM_UNAUTHORIZED, "the token %s", why);
	request_abort_locked(rq, &err);
	shutdown(rq->fd, SHUT_RDWR);
}

void http_revoked(const char *id, const struct request *but)
{
	struct request *rq;

	pthread_mutex_lock(&server.lock);
	for (rq = TAILQ_FIRST(&server.served); rq; rq = TAILQ_NEXT(rq, entry))
		if (rq != but && strcmp(rq->token.id, id) == 0)
			unauthorize_locked(rq, "has been revoked");
	pthread_mutex_unlock(&server.lock);
}

static void sweep(int64_t now)
{
	struct request *rq, *next;
	int64_t wall = clock_wall();

	pthread_mutex_lock(&server.lock);
	for (rq = TAILQ_FIRST(&server.served); rq; rq = next) {
		next = TAILQ_NEXT(rq, entry);
		bool idle = atomic_load(&server.stopping) && !rq->answered && rq->deadline != FCM_FOREVER;
		if (rq->deadline <= now || idle)
			expire_served_locked(rq);
		else if (token_expired(&rq->token, wall))
			unauthorize_locked(rq, "has ended");
	}
	while ((rq = TAILQ_FIRST(&lingering)) && rq->deadline <= now)
		bury_locked(rq);
	pthread_mutex_unlock(&server.lock);
	next_sweep = now + SWEEP_MS;
}

static void expire(void)
{
	struct request *rq;
	struct fcm_error err;
	int64_t now = clock_ms();

	while ((rq = TAILQ_FIRST(&heads)) && rq->deadline <= now) {
		fcm_fail(&err, FCM_REQUEST_TIMEOUT, "the request's head didn't come within %u seconds",
			server.config.header_seconds);
		refuse(rq, &err);
	}
	if (paused_until && paused_until <= now && !atomic_load(&server.stopping))
		set_listening(true);
	if (now >= next_sweep)
		sweep(now);
}

/* How long epoll_wait(2) may sleep. A served request may become a lingering one at any time, and both are swept. */
static int patience(void)
{
	int64_t until = TAILQ_EMPTY(&heads) ? FCM_FOREVER : TAILQ_FIRST(&heads)->deadline;

	if (paused_until)
		until = MIN(until, paused_until);
	pthread_mutex_lock(&server.lock);
	if (server.n_served || n_lingering)
		until = MIN(until, next_sweep);
	pthread_mutex_unlock(&server.lock);
	return clock_left(until);
}

static void free_dead(void)
{
	struct request *rq;

	pthread_mutex_lock(&server.lock);
	while ((rq = TAILQ_FIRST(&dead))) {
		TAILQ_REMOVE(&dead, rq, entry);
		pthread_mutex_unlock(&server.lock);
		request_free(rq);
		pthread_mutex_lock(&server.lock);
	}
	pthread_mutex_unlock(&server.lock);
}

static void stop_listening(void)
{
	for (unsigned i = 0; i < server.n_listeners; i++)
		close(server.listeners[i].fd);
	server.n_listeners = 0;
	paused_until = 0;
	while (!TAILQ_EMPTY(&heads))
		bury(TAILQ_FIRST(&heads));
	next_sweep = 0;
}

static bool is_listener(const void *p)
{
	for (unsigned l = 0; l < LISTENERS; l++)
		if (p == &server.listeners[l])
			return true;
	return false;
}

static void dispatch(const struct epoll_event *e, int n)
{
	for (int i = 0; i < n; i++) {
		void *p = e[i].data.ptr;
		if (p && !is_listener(p))
			connection_event(p, e[i].events);
	}
	for (int i = 0; i < n; i++)
		for (unsigned l = 0; l < server.n_listeners; l++)
			if (e[i].data.ptr == &server.listeners[l])
				accept_some(&server.listeners[l]);
}

void *gate_main(void *unused)
{
	(void)unused;
	while (!atomic_load(&server.quit)) {
		struct epoll_event e[BATCH];
		int n = epoll_wait(server.epoll_fd, e, BATCH, patience());

		if (atomic_load(&server.stopping) && server.n_listeners)
			stop_listening();
		dispatch(e, n);
		expire();
		free_dead();
	}
	pthread_mutex_lock(&server.lock);
	while (!TAILQ_EMPTY(&lingering))
		bury_locked(TAILQ_FIRST(&lingering));
	pthread_mutex_unlock(&server.lock);
	free_dead();
	return NULL;
}

static void leave_locked(struct request *rq)
{
	TAILQ_REMOVE(&server.served, rq, entry);
	server.n_served--;
	pthread_cond_broadcast(&server.left);
}

void gate_lost(struct request *rq)
{
	pthread_mutex_lock(&server.lock);
	leave_locked(rq);
	pthread_mutex_unlock(&server.lock);
	request_free(rq);
}

void gate_done(struct request *rq)
{
	int unread = 0;

	request_end(rq);
	ioctl(rq->fd, FIONREAD, &unread);
	bool linger = (!rq->body_ended || unread > 0) && !atomic_load(&server.quit);
	pthread_mutex_lock(&server.lock);
	leave_locked(rq);
	if (linger && (rq->fd = fcntl(rq->fd, F_DUPFD_CLOEXEC, 3)) >= 0)
		linger_locked(rq);
	else
		linger = false;
	pthread_mutex_unlock(&server.lock);
	if (!linger)
		request_free(rq);
}
