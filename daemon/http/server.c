/*
 * Listeners, start and stop.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
#include <netdb.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "common/config.h"
#include "common/core/fileio.h"
#include "daemon/http/internal.h"

enum {
	BACKLOG = 1024,
	ABANDON_MS = 500, /* for threads to see that their socket has been shut down */
	LOOK_MS = 100,	  /* between two looks at the clock */
};

struct http_server server = {
	.epoll_fd = -1,
	.stop_fd = -1,
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.served = TAILQ_HEAD_INITIALIZER(server.served),
};

/* ---- listeners ---- */

static int add_listener(struct listener listener, struct fcm_error *err)
{
	struct listener *l = &server.listeners[server.n_listeners];
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = l};

	*l = listener;
	server.n_listeners++;
	if (listen(l->fd, BACKLOG) < 0 || epoll_ctl(server.epoll_fd, EPOLL_CTL_ADD, l->fd, &e) < 0)
		return fcm_fail_errno(err, "listen");
	return 0;
}

static int bind_tcp(const struct addrinfo *a, const char *text, struct fcm_error *err)
{
	auto_close int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int one = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
		bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
		bool used = errno == EADDRINUSE;
		fcm_fail_errno(err, "listen at %s", text);
		return used ? fcm_hint(err, "another daemon runs there, or set `listen` in " CONFIG_FILE)
			    : -1;
	}
	return add_listener((struct listener){.fd = STEAL_FD(fd)}, err);
}

/* "127.0.0.1:7777" or "[::1]:7777". */
static int listen_tcp(const char *text, struct fcm_error *err)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *a;
	auto_free char *host = xstrdup(text);
	char *port = strrchr(host, ':'), *name = host;
	int64_t number; /* getaddrinfo(3) takes 99999, modulo 2^16 */

	if (port)
		*port++ = 0;
	strv_add(&server.hosts, host);
	if (*host == '[' && port && port - host >= 3 && port[-2] == ']') {
		port[-2] = 0;
		name = host + 1;
	}
	if (!port || !fcm_parse_i64(port, 1, 65535, &number) || getaddrinfo(name, port, &hints, &a) != 0)
		return fcm_fail(
			err, FCM_CONFIG, "'%s' isn't an address and a port, such as 127.0.0.1:7777", text);
	int r = bind_tcp(a, text, err);
	freeaddrinfo(a);
	return r;
}

static void give_to_group(const struct socket_file *f, const char *group)
{
	struct group *g = *group ? getgrnam(group) : NULL;

	if (g)
		(void)!fchownat(f->dir, f->name, (uid_t)-1, g->gr_gid, AT_SYMLINK_NOFOLLOW);
}

/* With `trusted` the mode is the check; without, everybody may connect. A socket that answers is another daemon's: it isn't
 * taken away. */
static int listen_unix(const char *path, bool trusted, struct fcm_error *err)
{
	auto_free char *for_dir = xstrdup(path), *for_name = xstrdup(path);
	struct socket_file *f = &server.files[server.n_files++];
	const char *dir = dirname(for_dir);
	struct fcm_error ignored;

	*f = (struct socket_file){.dir = -1, .name = xstrdup(basename(for_name))};
	if (dir_make(dir, 0755, err) < 0 || (f->dir = dir_open(AT_FDCWD, dir, err)) < 0)
		return -1;
	auto_close int other = unix_connect(f->dir, f->name, SOCK_NONBLOCK, &ignored);
	if (other >= 0)
		return fcm_fail(err, FCM_WRONG_STATE, "another daemon listens at %s", path);
	int fd = unix_listen(f->dir, f->name, trusted ? 0660 : 0666, SOCK_NONBLOCK, err);
	if (fd < 0)
		return -1;
	f->ours = true;
	if (trusted)
		give_to_group(f, server.config.socket_group);
	return add_listener((struct listener){.fd = fd, .is_unix = true, .trusted = trusted}, err);
}

static int init(const struct http_config *config, struct fcm_error *err)
{
	struct epoll_event e = {.events = EPOLLIN | EPOLLET}; /* data.ptr NULL: look at the flags */

	server.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	server.stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (server.epoll_fd < 0 || server.stop_fd < 0 ||
		epoll_ctl(server.epoll_fd, EPOLL_CTL_ADD, server.stop_fd, &e) < 0)
		return fcm_fail_errno(err, "make the HTTP server");
	strv_copy(&server.hosts, &config->allowed_hosts);
	strv_add(&server.hosts, "localhost");
	strv_add(&server.hosts, "127.0.0.1");
	strv_add(&server.hosts, "[::1]");
	if (*config->listen && listen_tcp(config->listen, err) < 0)
		return -1;
	if (*config->socket_path && listen_unix(config->socket_path, true, err) < 0)
		return -1;
	return *config->proxy_path ? listen_unix(config->proxy_path, false, err) : 0;
}

static void remove_files(void)
{
	while (server.n_files > 0) {
		struct socket_file *f = &server.files[--server.n_files];
		if (f->ours)
			unlinkat(f->dir, f->name, 0);
		fcm_closep(&f->dir);
		free(STEAL(f->name));
	}
}

static void done(void)
{
	while (server.n_listeners > 0)
		close(server.listeners[--server.n_listeners].fd);
	remove_files();
	fcm_closep(&server.epoll_fd);
	fcm_closep(&server.stop_fd);
	strv_done(&server.hosts);
	idem_clear();
}

int http_init(const struct http_config *config, struct fcm_error *err)
{
	server.config = *config;
	if (init(config, err) == 0)
		return 0;
	done();
	return -1;
}

void http_allow_host(const char *host)
{
	strv_add(&server.hosts, host);
}

int http_serve(struct fcm_error *err)
{
	worker_init();
	errno = pthread_create(&server.gate, NULL, gate_main, NULL);
	if (errno)
		return fcm_fail_errno(err, "start the HTTP server's thread");
	server.running = true;
	return 0;
}

/* ---- stop ---- */

int http_stop_fd(void)
{
	return server.stop_fd;
}

static void wake(void)
{
	uint64_t one = 1;
	(void)!write(server.stop_fd, &one, sizeof one);
}

/* Wait until *count is 0. Returns false at the deadline. */
static bool gone(const unsigned *count, int64_t deadline)
{
	while (*count > 0 && clock_left(deadline) != 0) {
		struct timespec t = clock_monotonic(clock_in(LOOK_MS));
		pthread_cond_timedwait(&server.left, &server.lock, &t);
	}
	return *count == 0;
}

static void stop_requests(int64_t deadline)
{
	struct request *rq;

	pthread_mutex_lock(&server.lock);
	if (!gone(&server.n_served, deadline)) {
		for (rq = TAILQ_FIRST(&server.served); rq; rq = TAILQ_NEXT(rq, entry))
			shutdown(rq->fd, SHUT_RDWR);
		(void)gone(&server.n_served, clock_in(ABANDON_MS));
	}
	pthread_mutex_unlock(&server.lock);
}

static bool stop_workers(void)
{
	atomic_store(&server.quit, true);
	wake();
	pthread_join(server.gate, NULL);
	worker_quit();
	pthread_mutex_lock(&server.lock);
	bool all = gone(&server.n_workers, clock_in(ABANDON_MS));
	pthread_mutex_unlock(&server.lock);
	return all;
}

void http_stop(int64_t deadline)
{
	if (server.epoll_fd < 0)
		return;
	atomic_store(&server.stopping, true);
	wake();
	if (server.running) {
		stop_requests(deadline);
		if (!stop_workers())
			return;
		server.running = false;
	}
	done();
}
