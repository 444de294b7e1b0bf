#include "images/agent/mainproc.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "common/core/clock.h"
#include "common/core/kv.h"
#include "images/agent/exec.h"
#include "images/agent/init.h"

enum {
	READ_MAX = 32 << 10,
	ANSWER_MAX = FRAME_MAX - 128, /* of records in one answer */
	TMPFS_MAX = 32,
	CANNOT_RUN = 126,
};

/* ---- start ---- */

static void close_all(struct mainproc *m)
{
	fcm_closep(&m->report);
	fcm_closep(&m->in);
	fcm_closep(&m->out[0]);
	fcm_closep(&m->out[1]);
	fcm_closep(&m->peer);
	fcm_closep(&m->spaces.pid);
	fcm_closep(&m->spaces.mnt);
}

/* It has ended before it began. */
static void fail_to_run(struct mainproc *m, int status, const struct fcm_error *why)
{
	auto_free char *text = xprintf("fcm: %s\n", why->msg);

	ring_add(&m->ring, FRAME_STDERR, text, strlen(text));
	m->exit = status;
}

static int parse_tmpfs(const void *kv, size_t n, struct strv *ret, struct fcm_error *err)
{
	for (const char *s = NULL; (s = kv_next(kv, n, "tmpfs", s));) {
		if (s[0] != '/' || ret->n == TMPFS_MAX)
			return fcm_fail_field(err, FCM_INVALID, "tmpfs",
				"tmpfs: at most %d paths that begin with /", TMPFS_MAX);
		strv_add(ret, s);
	}
	return 0;
}

static int open_space(pid_t pid, const char *name)
{
	char path[64];

	(void)fcm_format(path, sizeof path, "/proc/%d/ns/%s", (int)pid, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static int spawn_main(struct mainproc *m, struct spawn *sp, struct fcm_error *err)
{
	if (spawn_start(sp, &m->pid, &m->report, err) < 0)
		return -1;
	m->spaces = (struct spaces){open_space(m->pid, "pid"), open_space(m->pid, "mnt")};
	return 0;
}

int mainproc_start(struct mainproc *m, const void *kv, size_t n, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv tmpfs = {0};
	_cleanup_(spawn_done) struct spawn sp = {.stdio = {-1, -1, -1}, .isolate = true, .tmpfs = &tmpfs};
	struct mainproc new = {
		.given = true, .report = -1, .in = -1, .out = {-1, -1}, .peer = -1, .spaces = {-1, -1}};
	struct fcm_error why = {0};

	if (m->given)
		return 0;
	new.tty = sp.tty = kv_i64(kv, n, "tty", 0, 1, 0) == 1;
	new.asked_at = clock_ms();
	sp.read_only = kv_i64(kv, n, "read_only", 0, 1, 0) == 1;
	if (parse_tmpfs(kv, n, &tmpfs, err) < 0 || exec_parse_words(kv, n, &sp, err) < 0)
		return -1;
	*m = new;
	int r = exec_parse_user(kv, n, &sp, &why);
	bool systemd = r == 0 && init_is_systemd(&sp);
	m->stop_signal = (int)kv_i64(kv, n, "stop_signal", 1, SIGRTMAX, systemd ? INIT_STOP_SIGNAL : SIGTERM);
	sp.prepare = systemd ? init_prepare : NULL;
	if (r < 0 || exec_open_main(m, &sp, kv_i64(kv, n, "stdin", 0, 1, 0) == 1, &why) < 0 ||
		spawn_main(m, &sp, &why) < 0) {
		close_all(m);
		fail_to_run(m, CANNOT_RUN, &why);
		m->ended = true;
	}
	return 0;
}

bool mainproc_runs(const struct mainproc *m)
{
	return m->given && !m->ended;
}

const struct spaces *mainproc_spaces(const struct mainproc *m)
{
	return mainproc_runs(m) && m->spaces.pid >= 0 && m->spaces.mnt >= 0 ? &m->spaces : NULL;
}

bool mainproc_stop(const struct mainproc *m)
{
	if (!mainproc_runs(m))
		return false;
	kill(m->pid, m->stop_signal);
	kill(m->pid, SIGCONT);
	return true;
}

void mainproc_kill(const struct mainproc *m)
{
	if (mainproc_runs(m))
		kill(m->pid, SIGKILL);
}

int mainproc_signal(const struct mainproc *m, const void *kv, size_t n, struct fcm_error *err)
{
	int sig = (int)kv_i64(kv, n, "signal", 1, SIGRTMAX, 0);

	if (sig == 0)
		return fcm_fail_field(err, FCM_INVALID, "signal", "signal: 1 to %d", SIGRTMAX);
	if (!mainproc_runs(m))
		return fcm_fail(err, FCM_WRONG_STATE, "kill: the main process doesn't run");
	return kill(m->pid, sig) < 0 ? fcm_fail_errno(err, "kill") : 0;
}

void mainproc_end_input(struct mainproc *m)
{
	if (m->given && !m->tty)
		fcm_closep(&m->in);
}

/* ---- output ---- */

int mainproc_output(struct mainproc *m, uint32_t number, const void *kv, size_t n, struct fcm_error *err)
{
	int64_t pos = kv_i64(kv, n, "pos", 0, INT64_MAX, -1);

	if (!m->given)
		return fcm_fail(err, FCM_WRONG_STATE, "output: there is no main process");
	if (pos < 0 || (uint64_t)pos > m->ring.total)
		return fcm_fail_field(
			err, FCM_INVALID, "pos", "pos: 0 to %llu", (unsigned long long)m->ring.total);
	m->asked = number;
	m->taken = (uint64_t)pos;
	m->asked_at = clock_ms();
	return 0;
}

void mainproc_forget_host(struct mainproc *m)
{
	m->asked = 0;
	m->said = m->told = false;
	m->asked_at = clock_ms();
}

static bool is_open(const struct mainproc *m)
{
	return m->out[0] >= 0 || m->out[1] >= 0;
}

static bool is_over(const struct mainproc *m)
{
	return m->ended && !is_open(m);
}

/* May output be read? While somebody asks for it, none is dropped. */
static bool may_read(const struct mainproc *m)
{
	return ring_has_room(&m->ring, m->taken, 2 * READ_MAX) ||
	       clock_ms() >= m->asked_at + MAIN_PATIENCE_MS;
}

void mainproc_poll(const struct mainproc *m, struct pollfd *fds)
{
	bool read = m->given && m->report < 0 && may_read(m);

	for (int i = 0; i < 2; i++)
		fds[i] = (struct pollfd){.fd = read ? m->out[i] : -1, .events = POLLIN};
	fds[2] = (struct pollfd){.fd = m->given ? m->report : -1, .events = POLLIN};
}

/* The master of a terminal that nobody has open any more fails with EIO. */
static void read_out(struct mainproc *m, int i)
{
	static char chunk[READ_MAX];
	ssize_t n = read(m->out[i], chunk, sizeof chunk);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		fcm_closep(&m->out[i]);
	else
		ring_add(&m->ring, (enum frame_channel)(FRAME_STDOUT + i), chunk, (size_t)n);
}

static void serve_report(struct mainproc *m)
{
	struct fcm_error why = {0};
	int status;

	switch (spawn_report(m->report, &status, &why)) {
	case SPAWN_LATER:
		return;
	case SPAWN_FAILED:
		fail_to_run(m, status ? status : CANNOT_RUN, &why);
		break;
	case SPAWN_RUNS:
		break;
	}
	fcm_closep(&m->report);
}

void mainproc_serve(struct mainproc *m, const struct pollfd *fds)
{
	for (int i = 0; i < 2; i++)
		if (fds[i].fd >= 0 && fds[i].revents)
			read_out(m, i);
	if (fds[2].fd >= 0 && fds[2].revents)
		serve_report(m);
}

/* reboot(2) in its PID namespace: nothing else ends PID 1 there with one of these two (pid_namespaces(7)), for a signal that it has
 * no handler for doesn't reach it. */
static bool wanted_power(int status)
{
	return WIFSIGNALED(status) && (WTERMSIG(status) == SIGHUP || WTERMSIG(status) == SIGINT);
}

static int exit_of(int status)
{
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	return wanted_power(status) ? 0 : 128 + WTERMSIG(status);
}

void mainproc_reaped(struct mainproc *m, pid_t pid, int status)
{
	if (!mainproc_runs(m) || m->pid != pid)
		return;
	if (m->report >= 0)
		serve_report(m); /* why, before how */
	m->ended = true;
	if (m->exit == 0)
		m->exit = exit_of(status);
	m->reboot = wanted_power(status) && WTERMSIG(status) == SIGHUP;
	fcm_closep(&m->peer);
	fcm_closep(&m->in);
}

static void say_end(struct mainproc *m, struct channel *c)
{
	_cleanup_(buf_done) struct buf event = {0};

	kv_add(&event, "event", "main");
	kv_addf(&event, "exit", "%d", m->exit);
	channel_send(c, 0, FRAME_EVENT, &event);
	m->said = true;
}

static void answer(struct mainproc *m, struct channel *c)
{
	_cleanup_(buf_done) struct buf records = {0}, answer = {0};
	uint64_t pos = m->taken;

	ring_records(&m->ring, &pos, ANSWER_MAX, &records);
	m->told = records.n == 0 && is_over(m);
	kv_add(&answer, "ok", "1");
	kv_addf(&answer, "pos", "%llu", (unsigned long long)pos);
	if (m->told)
		kv_addf(&answer, "exit", "%d", m->exit);
	kv_end(&answer);
	buf_add(&answer, records.p, records.n);
	channel_send(c, m->asked, FRAME_RES, &answer);
	m->asked = 0;
}

bool mainproc_tick(struct mainproc *m, struct channel *c)
{
	if (!m->given)
		return false;
	if (m->ended && !m->said)
		say_end(m, c);
	if (m->asked && (m->ring.total > m->taken || is_over(m)))
		answer(m, c);
	return is_over(m);
}

int64_t mainproc_deadline(const struct mainproc *m)
{
	return m->given && is_open(m) && !may_read(m) ? m->asked_at + MAIN_PATIENCE_MS : FCM_FOREVER;
}

bool mainproc_told(const struct mainproc *m)
{
	return !m->given || m->told;
}

/* Before the last word of power_say(), and as that. */
void mainproc_say(const struct mainproc *m)
{
	auto_close int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	char line[64];

	fcm_format(line, sizeof line, "<0>fcm-agent: main exit %d\n", m->exit);
	if (fd >= 0 && m->given && m->ended)
		(void)!write(fd, line, strlen(line));
}

void mainproc_done(struct mainproc *m)
{
	if (m->given)
		close_all(m);
	ring_done(&m->ring);
	*m = (struct mainproc){0};
}
