#include "images/agent/exec.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "images/agent/hooks.h"
#include "images/agent/probe.h"
#include "images/agent/session.h"
#include "images/agent/spawn.h"
#include "images/agent/start.h"

enum { TTY_GROUP = 5, ENV_FILE_MAX = 65536, ROWS = 24, COLS = 80 };

static void free_streamp(struct stream **s)
{
	stream_free(*s);
}

/* ---- the request ---- */

static struct stream *find(const struct execs *x, int64_t number)
{
	for (size_t i = 0; i < x->count; i++)
		if (x->open[i]->number == number)
			return x->open[i];
	return NULL;
}

/* Set K=V, in place of another K. */
static void set_env(struct strv *env, const char *entry)
{
	size_t name = strcspn(entry, "=") + 1;

	for (size_t i = 0; i < env->n; i++) {
		if (strncmp(env->v[i], entry, name) == 0) {
			free(env->v[i]);
			env->v[i] = xstrdup(entry);
			return;
		}
	}
	strv_add(env, entry);
}

/* What op=start left there, and the guest's owner may have changed: a line that is none of an environment is passed over. */
static void add_env_file(struct strv *env)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error ignored;
	char *save = NULL;

	if (file_read(AT_FDCWD, START_ENV, ENV_FILE_MAX, &text, &ignored) < 0 || text.n == 0)
		return;
	for (char *s = strtok_r(text.p, "\n", &save); s; s = strtok_r(NULL, "\n", &save))
		if (start_env_valid(s) && env->n < START_ENV_COUNT)
			set_env(env, s);
}

static int make_env(const void *kv, size_t n, struct spawn *sp, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv given = {0};

	if (start_env_parse(kv, n, &given, err) < 0)
		return -1;
	strv_add(&sp->env, "PATH=" START_PATH);
	strv_addf(&sp->env, "HOME=%s", sp->user.home);
	strv_addf(&sp->env, "USER=%s", sp->user.name);
	strv_addf(&sp->env, "SHELL=%s", sp->user.shell);
	if (sp->tty)
		strv_add(&sp->env, "TERM=xterm");
	add_env_file(&sp->env);
	for (size_t i = 0; i < given.n; i++)
		set_env(&sp->env, given.v[i]);
	return 0;
}

int exec_parse_words(const void *kv, size_t n, struct spawn *sp, struct fcm_error *err)
{
	for (const char *s = NULL; (s = kv_next(kv, n, "arg", s));)
		strv_add(&sp->argv, s);
	sp->dir = kv_get(kv, n, "dir");
	if (sp->argv.n == 0)
		return fcm_fail_field(err, FCM_INVALID, "arg", "arg: there must be one at least");
	if (sp->dir && sp->dir[0] != '/')
		return fcm_fail_field(err, FCM_INVALID, "dir", "dir: '%.64s' doesn't begin with /", sp->dir);
	return 0;
}

int exec_parse_user(const void *kv, size_t n, struct spawn *sp, struct fcm_error *err)
{
	return user_find("/etc", kv_get(kv, n, "user"), &sp->user, err) < 0 ? -1 : make_env(kv, n, sp, err);
}

/* A program runs where the main process does. */
static int parse_program(
	const struct execs *x, const void *kv, size_t n, struct spawn *sp, struct fcm_error *err)
{
	sp->inside = x->main ? mainproc_spaces(x->main) : NULL;
	return exec_parse_words(kv, n, sp, err) < 0 ? -1 : exec_parse_user(kv, n, sp, err);
}

static int parse_size(const void *kv, size_t n, struct winsize *ret, struct fcm_error *err)
{
	int64_t rows = kv_i64(kv, n, "rows", 1, UINT16_MAX, kv_get(kv, n, "rows") ? 0 : ROWS);
	int64_t cols = kv_i64(kv, n, "cols", 1, UINT16_MAX, kv_get(kv, n, "cols") ? 0 : COLS);

	if (rows == 0 || cols == 0)
		return fcm_fail_field(
			err, FCM_INVALID, rows ? "cols" : "rows", "rows, cols: 1 to %d", UINT16_MAX);
	*ret = (struct winsize){.ws_row = (unsigned short)rows, .ws_col = (unsigned short)cols};
	return 0;
}

/* ---- stdin and output ---- */

static int open_null(int *ret_theirs, struct fcm_error *err)
{
	*ret_theirs = open("/dev/null", O_RDWR | O_CLOEXEC);
	return *ret_theirs < 0 ? fcm_fail_errno(err, "open /dev/null") : 0;
}

static int open_pipe(bool is_stdin, int *ret_ours, int *ret_theirs, struct fcm_error *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return fcm_fail_errno(err, "make a pipe");
	*ret_ours = ends[is_stdin];
	*ret_theirs = ends[!is_stdin];
	return fcntl(*ret_ours, F_SETFL, O_NONBLOCK) < 0 ? fcm_fail_errno(err, "make a pipe") : 0;
}

/* The other end is opened by its master (TIOCGPTPEER), not by name: somebody may have mounted something there. */
static int open_tty(
	struct stream *s, struct spawn *sp, bool has_stdin, const struct winsize *size, struct fcm_error *err)
{
	auto_close int master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);

	if (master < 0 || unlockpt(master) < 0 || ioctl(master, TIOCSWINSZ, size) < 0 ||
		(sp->stdio[0] = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0 ||
		fchown(sp->stdio[0], sp->user.uid, TTY_GROUP) < 0 ||
		(sp->stdio[1] = fcntl(sp->stdio[0], F_DUPFD_CLOEXEC, 0)) < 0 ||
		(sp->stdio[2] = fcntl(sp->stdio[0], F_DUPFD_CLOEXEC, 0)) < 0 ||
		(s->peer = fcntl(sp->stdio[0], F_DUPFD_CLOEXEC, 0)) < 0 ||
		(has_stdin && (s->fd[FRAME_STDIN] = fcntl(master, F_DUPFD_CLOEXEC, 0)) < 0))
		return fcm_fail_errno(err, "open a terminal");
	s->fd[FRAME_STDOUT] = STEAL_FD(master);
	return 0;
}

static int open_stdio(
	struct stream *s, struct spawn *sp, bool has_stdin, const void *kv, size_t n, struct fcm_error *err)
{
	struct winsize size;

	if (sp->tty)
		return parse_size(kv, n, &size, err) < 0 ? -1 : open_tty(s, sp, has_stdin, &size, err);
	for (int i = 0; i < STREAM_CHANNELS; i++) {
		bool piped = !s->detach && (i != FRAME_STDIN || has_stdin);
		int r = piped ? open_pipe(i == FRAME_STDIN, &s->fd[i], &sp->stdio[i], err)
			      : open_null(&sp->stdio[i], err);
		if (r < 0)
			return -1;
	}
	return 0;
}

static int check_room(const struct execs *x, uint32_t number, struct fcm_error *err)
{
	if (number == 0 || find(x, number))
		return fcm_fail(err, FCM_INVALID, "stream %u is in use", number);
	if (x->count == EXEC_MAX)
		return fcm_fail(err, FCM_UNAVAILABLE, "%d programs run already", EXEC_MAX);
	return 0;
}

int exec_start(struct execs *x, uint32_t number, const void *kv, size_t n, struct fcm_error *err)
{
	_cleanup_(free_streamp) struct stream *s = stream_new(number);
	_cleanup_(spawn_done) struct spawn sp = {.stdio = {-1, -1, -1}};

	if (check_room(x, number, err) < 0)
		return -1;
	s->detach = kv_i64(kv, n, "detach", 0, 1, 0) == 1;
	s->tty = sp.tty = !s->detach && kv_i64(kv, n, "tty", 0, 1, 0) == 1;
	if (parse_program(x, kv, n, &sp, err) < 0 ||
		open_stdio(s, &sp, kv_i64(kv, n, "stdin", 0, 1, 0) == 1, kv, n, err) < 0 ||
		spawn_start(&sp, &s->pid, &s->report, err) < 0)
		return -1;
	x->open[x->count++] = STEAL(s);
	return 0;
}

/* A stream's descriptors become the main process's. */
int exec_open_main(struct mainproc *m, struct spawn *sp, bool has_stdin, struct fcm_error *err)
{
	_cleanup_(free_streamp) struct stream *s = stream_new(0);

	if (open_stdio(s, sp, has_stdin, NULL, 0, err) < 0)
		return -1;
	m->in = STEAL_FD(s->fd[FRAME_STDIN]);
	m->out[0] = STEAL_FD(s->fd[FRAME_STDOUT]);
	m->out[1] = STEAL_FD(s->fd[FRAME_STDERR]);
	m->peer = STEAL_FD(s->peer);
	return 0;
}

int exec_attach(struct execs *x, uint32_t number, const void *kv, size_t n, struct fcm_error *err)
{
	_cleanup_(free_streamp) struct stream *s = stream_new(number);
	const struct mainproc *m = x->main;
	bool has_stdin = kv_i64(kv, n, "stdin", 0, 1, 0) == 1;

	if (check_room(x, number, err) < 0)
		return -1;
	if (m == NULL || !mainproc_runs(m))
		return fcm_fail(err, FCM_WRONG_STATE, "attach: the main process doesn't run");
	s->attached = true;
	s->tty = m->tty;
	s->pid = m->pid;
	if (has_stdin && m->in >= 0 && (s->fd[FRAME_STDIN] = fcntl(m->in, F_DUPFD_CLOEXEC, 3)) < 0)
		return fcm_fail_errno(err, "attach");
	if (m->tty && (s->peer = fcntl(m->out[0], F_DUPFD_CLOEXEC, 3)) < 0)
		return fcm_fail_errno(err, "attach");
	x->open[x->count++] = STEAL(s);
	return 0;
}

int exec_own(struct execs *x, uint32_t number, const struct strv *argv, bool has_stdin, struct fcm_error *err)
{
	_cleanup_(free_streamp) struct stream *s = stream_new(number);
	_cleanup_(spawn_done) struct spawn sp = {.stdio = {-1, -1, -1}, .user = {.home = "/"}};

	if (check_room(x, number, err) < 0)
		return -1;
	strv_copy(&sp.argv, argv);
	strv_add(&sp.env, "PATH=" START_PATH);
	if (open_stdio(s, &sp, has_stdin, NULL, 0, err) < 0 || spawn_start(&sp, &s->pid, &s->report, err) < 0)
		return -1;
	x->open[x->count++] = STEAL(s);
	return 0;
}

int exec_probe(struct execs *x, uint32_t number, const void *kv, size_t n, struct fcm_error *err)
{
	_cleanup_(free_streamp) struct stream *s = stream_new(number);
	_cleanup_(spawn_done) struct spawn sp = {.stdio = {-1, -1, -1}};
	const char *mode = kv_get(kv, n, "mode");
	struct probe probe;

	if (check_room(x, number, err) < 0)
		return -1;
	s->probe = true;
	if (mode && strcmp(mode, "exec") == 0) {
		if (parse_program(x, kv, n, &sp, err) < 0)
			return -1;
	} else {
		if (probe_parse(kv, n, &probe, err) < 0 || user_find("/etc", NULL, &sp.user, err) < 0)
			return -1;
		sp.run = probe_run;
		sp.arg = &probe;
	}
	if (open_stdio(s, &sp, false, NULL, 0, err) < 0 || spawn_start(&sp, &s->pid, &s->report, err) < 0)
		return -1;
	x->open[x->count++] = STEAL(s);
	return 0;
}

int exec_hooks(struct execs *x, uint32_t number, const void *kv, size_t n, struct fcm_error *err)
{
	_cleanup_(free_streamp) struct stream *s = stream_new(number);
	_cleanup_(spawn_done) struct spawn sp = {.stdio = {-1, -1, -1}};
	_cleanup_(buf_done) struct buf env = {0};
	struct hooks hooks = {.dir = HOOKS_DIR, .env = &sp.env};

	if (check_room(x, number, err) < 0 || hooks_parse(kv, n, &hooks, &env, err) < 0)
		return -1;
	if (!hooks_any(hooks.dir))
		return EXEC_NO_HOOKS;
	if (x->main && mainproc_runs(x->main))
		kv_addf(&env, "env", "FCM_MAIN_PID=%d", (int)x->main->pid);
	sp.run = hooks_run;
	sp.arg = &hooks;
	if (user_find("/etc", NULL, &sp.user, err) < 0 || make_env(env.p, env.n, &sp, err) < 0 ||
		open_stdio(s, &sp, false, NULL, 0, err) < 0 || spawn_start(&sp, &s->pid, &s->report, err) < 0)
		return -1;
	x->open[x->count++] = STEAL(s);
	return 0;
}

/* ---- signals and the end ---- */

static void forget(struct execs *x, struct stream *s)
{
	size_t i = 0;

	while (x->open[i] != s)
		i++;
	x->count--;
	memmove(x->open + i, x->open + i + 1, (x->count - i) * sizeof s);
	stream_free(s);
}

/* A number that was reaped isn't given to another process while a process group has it. A child that isn't yet as far as its
 * setsid(2) has no group. */
static void signal_group(const struct stream *s, int sig)
{
	if (kill(-s->pid, sig) < 0 && !s->ended)
		kill(s->pid, sig);
}

/* The master of its terminal, or -1. */
static int terminal_of(const struct stream *s)
{
	return !s->tty ? -1 : s->attached ? s->peer : s->fd[FRAME_STDOUT];
}

static void signal_foreground(const struct stream *s, int sig)
{
	pid_t group = 0;

	if (s->attached) {
		if (!s->ended)
			kill(s->pid, sig); /* who is PID 1 passes it on, or doesn't */
		return;
	}
	if (terminal_of(s) >= 0)
		(void)ioctl(terminal_of(s), TIOCGPGRP, &group);
	if (group > 1)
		kill(-group, sig);
	else
		signal_group(s, sig);
}

static void kill_oldest(struct execs *x)
{
	kill(-x->doomed[0].group, SIGKILL);
	x->doomed_count--;
	memmove(x->doomed, x->doomed + 1, x->doomed_count * sizeof x->doomed[0]);
}

/* What is in the foreground of a terminal hears of its end from the kernel, when the master is closed. */
static void abandon(struct execs *x, struct stream *s)
{
	if (!s->detach && !s->attached) {
		if (x->doomed_count == EXEC_MAX)
			kill_oldest(x);
		x->doomed[x->doomed_count++] = (struct doomed){.group = s->pid, .at = clock_in(EXEC_KILL_MS)};
		signal_group(s, SIGHUP);
		signal_group(s, SIGCONT);
	}
	forget(x, s);
}

void exec_close_all(struct execs *x)
{
	while (x->count > 0)
		abandon(x, x->open[x->count - 1]);
}

void exec_hold(struct execs *x)
{
	for (size_t i = 0; i < x->count; i++)
		x->open[i]->heard = clock_ms();
	for (size_t i = 0; i < x->doomed_count; i++)
		x->doomed[i].at = clock_in(EXEC_KILL_MS);
}

void exec_hang_up(const struct execs *x)
{
	for (size_t i = 0; i < x->count; i++)
		if (x->open[i]->tty && !x->open[i]->attached)
			signal_group(x->open[i], SIGHUP);
}

static int find_named(
	const struct execs *x, const void *kv, size_t n, struct stream **ret, struct fcm_error *err)
{
	*ret = find(x, kv_i64(kv, n, "stream", 1, UINT32_MAX, 0));
	return *ret ? 0 : fcm_fail_field(err, FCM_NOT_FOUND, "stream", "stream: no such program runs");
}

int exec_signal(struct execs *x, const void *kv, size_t n, struct fcm_error *err)
{
	int sig = (int)kv_i64(kv, n, "signal", 1, SIGRTMAX, 0);
	struct stream *s;

	if (sig == 0)
		return fcm_fail_field(err, FCM_INVALID, "signal", "signal: 1 to %d", SIGRTMAX);
	if (find_named(x, kv, n, &s, err) < 0)
		return -1;
	signal_foreground(s, sig);
	return 0;
}

int exec_resize(struct execs *x, const void *kv, size_t n, struct fcm_error *err)
{
	struct winsize size;
	struct stream *s;

	if (parse_size(kv, n, &size, err) < 0 || find_named(x, kv, n, &s, err) < 0)
		return -1;
	if (!s->tty)
		return fcm_fail_field(err, FCM_INVALID, "stream", "stream: it has no terminal");
	if (terminal_of(s) >= 0 && ioctl(terminal_of(s), TIOCSWINSZ, &size) < 0)
		return fcm_fail_errno(err, "resize the terminal");
	return 0;
}

int exec_close(struct execs *x, const void *kv, size_t n, struct fcm_error *err)
{
	struct stream *s;

	if (find_named(x, kv, n, &s, err) < 0)
		return -1;
	abandon(x, s);
	return 0;
}

void exec_take(struct execs *x, const struct frame *f, struct channel *c)
{
	struct stream *s = find(x, f->stream);

	if (s && !stream_take(s, f, c))
		abandon(x, s);
}

/* ---- the loop ---- */

size_t exec_poll(struct execs *x, const struct channel *c, struct pollfd *fds)
{
	for (size_t i = 0; i < x->count; i++, fds += EXEC_STREAM_FDS) {
		struct stream *s = x->open[i];
		for (unsigned k = 0; k < STREAM_CHANNELS; k++) {
			short events = s->report < 0 ? stream_events(s, k, c) : 0;
			fds[k] = (struct pollfd){.fd = events ? s->fd[k] : -1, .events = events};
		}
		fds[STREAM_CHANNELS] = (struct pollfd){.fd = s->report, .events = POLLIN};
	}
	return x->count * EXEC_STREAM_FDS;
}

/* The frame that ends a stream. */
static void answer(const struct stream *s, struct channel *c, const char *key, int value)
{
	_cleanup_(buf_done) struct buf results = {0};

	kv_add(&results, "ok", "1");
	kv_addf(&results, key, "%d", value);
	channel_send(c, s->number, FRAME_RES, &results);
}

static void answer_failed(const struct stream *s, struct channel *c, int status, const struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf results = {0};

	session_error(&results, err);
	if (status > 0)
		kv_addf(&results, "exit", "%d", status);
	channel_send(c, s->number, FRAME_RES, &results);
}

/* Returns whether the stream is over. */
static bool serve_report(struct stream *s, struct channel *c)
{
	struct fcm_error err = {0};
	int status;

	switch (spawn_report(s->report, &status, &err)) {
	case SPAWN_LATER:
		return false;
	case SPAWN_FAILED:
		answer_failed(s, c, status, &err);
		return true;
	case SPAWN_RUNS:
		break;
	}
	fcm_closep(&s->report);
	stream_serve(s, FRAME_STDIN, c);
	if (s->detach)
		answer(s, c, "pid", s->pid);
	return s->detach;
}

static void serve_stream(struct stream *s, struct channel *c, const struct pollfd *fds)
{
	for (unsigned k = 0; k < STREAM_CHANNELS; k++)
		if (fds[k].revents)
			stream_serve(s, k, c);
}

void exec_serve(struct execs *x, struct channel *c, const struct pollfd *fds)
{
	size_t count = x->count, first = count ? x->first++ % count : 0;

	for (size_t i = 0; i < count; i++) {
		size_t at = (first + i) % count;
		serve_stream(x->open[at], c, fds + at * EXEC_STREAM_FDS);
	}
	/* From the end on: those that go move only what was looked at. */
	for (size_t i = count; i-- > 0;)
		if (fds[i * EXEC_STREAM_FDS + STREAM_CHANNELS].revents && serve_report(x->open[i], c))
			forget(x, x->open[i]);
}

bool exec_reap(struct execs *x)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (x->main)
			mainproc_reaped(x->main, pid, status);
		for (size_t i = 0; i < x->count; i++) {
			struct stream *s = x->open[i];
			if (s->pid != pid || s->ended)
				continue;
			s->ended = true;
			s->status = status;
			s->heard = clock_ms();
			fcm_closep(&s->peer);
			if (s->probe)
				kill(-pid, SIGKILL);
		}
	}
	return pid < 0 && errno == ECHILD;
}

static void answer_ended(const struct execs *x, const struct stream *s, struct channel *c)
{
	if (s->attached)
		answer(s, c, "exit", x->main->exit);
	else if (WIFEXITED(s->status))
		answer(s, c, "exit", WEXITSTATUS(s->status));
	else
		answer(s, c, "signal", WTERMSIG(s->status));
}

void exec_tick(struct execs *x, struct channel *c)
{
	for (size_t i = x->count; i-- > 0;) {
		struct stream *s = x->open[i];
		if (s->attached && s->in_ended && s->in.n == 0)
			mainproc_end_input(x->main);
		if (s->report >= 0 || !stream_drain(s, c))
			continue;
		answer_ended(x, s, c);
		forget(x, s);
	}
	while (x->doomed_count > 0 && clock_ms() >= x->doomed[0].at)
		kill_oldest(x);
}

int64_t exec_deadline(const struct execs *x)
{
	int64_t next = x->doomed_count > 0 ? x->doomed[0].at : FCM_FOREVER;

	for (size_t i = 0; i < x->count; i++)
		if (x->open[i]->report < 0)
			next = MIN(next, stream_deadline(x->open[i]));
	return next;
}
