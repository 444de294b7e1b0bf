/*
 * fake-vmm: QEMU's command line, QMP and the agent's protocol, and no guest. For tests and benches of the daemon with
 * more VMs than a machine without KVM can boot: about 1 MiB each, ready in a millisecond, idle at no cost.
 *
 * Honest unless the VM's name, as the guest's `ip=` word has it, is fault-<kind> or fault-<kind>-<anything>: so one
 * daemon can run both kinds, and no file or variable must find its way into the jail. $FAKE_VMM=<kind> does the same by
 * hand. The kinds are in the table below.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/frame.h"
#include "tests/fake/fake.h"

enum {
	IN_MAX = 4 * FRAME_MAX,
	SLOW_MS = 3000,
	PANIC_MS = 300, /* from `cont` to the panic */
	MARKER_MS = 5,	/* from `cont` to the agent's first answer */
};

static const struct {
	const char *name;
	enum fault fault;
	const char *what;
} faults[] = {
	{"exit", FAULT_EXIT, "says why and ends with 1 at once"},
	{"nosocket", FAULT_NOSOCKET, "runs, and never makes its sockets"},
	{"hung", FAULT_HUNG, "accepts connections and says nothing"},
	{"slow", FAULT_SLOW, "answers each QMP command after 3 s"},
	{"garbage", FAULT_GARBAGE, "greets with what is no JSON"},
	{"half", FAULT_HALF, "sends the first half of each QMP line"},
	{"close", FAULT_CLOSE, "closes each QMP connection after the greeting"},
	{"flood", FAULT_FLOOD, "20,000 events before each answer"},
	{"refuse", FAULT_REFUSE, "refuses each command but the handshake"},
	{"deaf", FAULT_DEAF, "an agent that says nothing"},
	{"agentgarbage", FAULT_AGENT_GARBAGE, "an agent that answers with rubbish"},
	{"agenthalf", FAULT_AGENT_HALF, "an agent that sends half of each frame"},
	{"agentflood", FAULT_AGENT_FLOOD, "an agent that sends 1,000 events before each answer"},
	{"agenterror", FAULT_AGENT_ERROR, "an agent that fails each request but ping"},
	{"nopower", FAULT_NOPOWER, "neither the agent nor ctrl-alt-del ends it, nor SIGTERM"},
	{"panic", FAULT_PANIC, "ends 0.3 s after it was started, without a word"},
	{"console", FAULT_CONSOLE, "prints 8 MiB to the console at start"},
};

static enum fault find_fault(const char *kind, size_t n)
{
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++)
		if (strlen(faults[i].name) == n && strncmp(faults[i].name, kind, n) == 0)
			return faults[i].fault;
	return FAULT_NONE;
}

/* The name is the word between the fourth and the fifth colon of ip=. */
static enum fault fault_of_line(const char *line)
{
	const char *s = strstr(line, "ip=");

	for (int i = 0; s && i < 4; i++) {
		s = strchr(s, ':');
		s = s ? s + 1 : NULL;
	}
	if (s == NULL || strncmp(s, "fault-", 6) != 0)
		return FAULT_NONE;
	s += 6;
	return find_fault(s, strcspn(s, "-:"));
}

/* The path in "socket,id=...,path=PATH,server=on". */
static char *path_in(const char *option)
{
	const char *s = strstr(option, ",path=");

	return s ? strndup(s + 6, strcspn(s + 6, ",")) : NULL;
}

static int listen_at(const char *path)
{
	struct fcm_error err;
	int fd = unix_listen(AT_FDCWD, path, 0600, SOCK_NONBLOCK, &err);

	if (fd < 0) {
		fprintf(stderr, "fake-vmm: %s\n", err.msg);
		exit(1);
	}
	return fd;
}

static void read_options(int argc, char **argv, struct machine *m)
{
	const char *env = getenv("FAKE_VMM");
	auto_free char *qmp = NULL;
	auto_free char *agent = NULL;

	m->fault = env ? find_fault(env, strlen(env)) : FAULT_NONE;
	for (int i = 1; i + 1 < argc; i++) {
		if (strcmp(argv[i], "-append") == 0 && m->fault == FAULT_NONE)
			m->fault = fault_of_line(argv[i + 1]);
		if (strncmp(argv[i + 1], "socket,id=qmp,", 14) == 0)
			qmp = path_in(argv[i + 1]);
		if (strncmp(argv[i + 1], "socket,id=agent,", 16) == 0)
			agent = path_in(argv[i + 1]);
	}
	if (qmp == NULL || agent == NULL) {
		fprintf(stderr, "fake-vmm: no socket for qmp or agent on the command line\n");
		exit(1);
	}
	if (m->fault == FAULT_EXIT) {
		fprintf(stderr, "fake-vmm: could not allocate guest memory\n");
		exit(1);
	}
	if (m->fault == FAULT_NOSOCKET)
		clock_sleep(INT64_MAX / 2);
	m->qmp.listen_fd = listen_at(qmp);
	m->agent.listen_fd = listen_at(agent);
}

static void new_boot_id(char id[37])
{
	unsigned char r[16];

	if (getrandom(r, sizeof r, 0) != sizeof r)
		abort();
	r[6] = (unsigned char)((r[6] & 0x0f) | 0x40);
	r[8] = (unsigned char)((r[8] & 0x3f) | 0x80);
	snprintf(id, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", r[0], r[1],
		r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11], r[12], r[13], r[14], r[15]);
}

static void say(const char *text)
{
	(void)!fd_write_all(STDOUT_FILENO, text, strlen(text));
}

static void boot(struct machine *m)
{
	m->running = true;
	if (m->booted_ms)
		return;
	m->booted_ms = clock_ms();
	say("fake guest: up\r\n");
	if (m->fault == FAULT_CONSOLE)
		for (int i = 0; i < 8 << 10; i++) {
			char line[1024];
			memset(line, 'a' + i % 26, sizeof line);
			line[sizeof line - 1] = '\n';
			(void)!fd_write_all(STDOUT_FILENO, line, sizeof line);
		}
}

static void qmp_say(struct machine *m, const char *text)
{
	size_t n = strlen(text);

	buf_add(&m->qmp.out, text, m->fault == FAULT_HALF ? n / 2 : n);
}

static void greet(struct machine *m)
{
	if (m->fault == FAULT_HUNG)
		return;
	qmp_say(m, m->fault == FAULT_GARBAGE
			   ? "SSH-2.0-OpenSSH_9.2\r\n"
			   : "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 7}, "
			     "\"package\": \"fake\"}, \"capabilities\": [\"oob\"]}}\r\n");
}

static void answer(struct machine *m, const char *what, long long id)
{
	_cleanup_(buf_done) struct buf b = {0};

	buf_printf(&b, "{%s, \"id\": %lld}\r\n", what, id);
	qmp_say(m, b.p);
}

static bool is_command(const char *line, const char *name)
{
	auto_free char *want = xprintf("\"execute\":\"%s\"", name);

	return strstr(line, want) != NULL;
}

/* Our daemon writes commands without spaces; this is no JSON parser. */
static void command(struct machine *m, const char *line)
{
	static const char event[] =
		"{\"timestamp\": {\"seconds\": 1, \"microseconds\": 0}, \"event\": \"RTC_CHANGE\"}\r\n";
	const char *s = strstr(line, "\"id\":");
	long long id = s ? strtoll(s + 5, NULL, 10) : 0;

	if (m->fault == FAULT_HUNG)
		return;
	if (m->fault == FAULT_SLOW)
		clock_sleep(SLOW_MS);
	for (int i = 0; m->fault == FAULT_FLOOD && i < 20000; i++)
		qmp_say(m, event);
	if (is_command(line, "qmp_capabilities")) {
		answer(m, "\"return\": {}", id);
		return;
	}
	if (m->fault == FAULT_REFUSE) {
		answer(m,
			"\"error\": {\"class\": \"GenericError\", \"desc\": \"not in this \\u001b[5mstate\"}",
			id);
		return;
	}
	if (is_command(line, "cont"))
		boot(m);
	else if (is_command(line, "stop"))
		m->running = false;
	else if (is_command(line, "quit") || (is_command(line, "send-key") && strstr(line, "\"delete\"")))
		m->ended = m->ended || m->fault != FAULT_NOPOWER;
	else {
		answer(m,
			"\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command is unknown to "
			"fake-vmm\"}",
			id);
		return;
	}
	answer(m, "\"return\": {}", id);
}

static void qmp_input(struct machine *m)
{
	for (;;) {
		char *nl = m->qmp.in.n ? memchr(m->qmp.in.p, '\n', m->qmp.in.n) : NULL;
		if (nl == NULL)
			return;
		*nl = '\0';
		command(m, m->qmp.in.p);
		buf_drop(&m->qmp.in, (size_t)(nl - m->qmp.in.p) + 1);
	}
}

static void hang_up(struct peer *p)
{
	fcm_closep(&p->fd);
	p->fd = -1;
	buf_done(&p->in);
	buf_done(&p->out);
}

/* As QEMU does, serve one connection at a time. */
static bool accepted(struct peer *p)
{
	if (p->fd >= 0)
		return false;
	p->fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	return p->fd >= 0;
}

static bool received(struct peer *p)
{
	char chunk[16384];
	ssize_t n = recv(p->fd, chunk, sizeof chunk, 0);

	if (n > 0 && p->in.n < IN_MAX) {
		buf_add(&p->in, chunk, (size_t)n);
		return true;
	}
	if (n >= 0 || (errno != EAGAIN && errno != EINTR))
		hang_up(p);
	return false;
}

static void sent(struct peer *p)
{
	ssize_t n = p->fd < 0 || p->out.n == 0 ? 0 : send(p->fd, p->out.p, p->out.n, MSG_NOSIGNAL);

	if (n > 0)
		buf_drop(&p->out, (size_t)n);
	else if (n < 0 && errno != EAGAIN && errno != EINTR)
		hang_up(p);
}

/* The agent answers once the CPUs run and the guest would be up. */
static bool agent_listens(const struct machine *m)
{
	return m->running && clock_ms() - m->booted_ms >= MARKER_MS;
}

static int timeout(const struct machine *m)
{
	if (m->fault == FAULT_PANIC && m->booted_ms)
		return clock_left(m->booted_ms + PANIC_MS);
	return m->running && !agent_listens(m) ? MARKER_MS : -1;
}

static void step(struct machine *m)
{
	bool listens = agent_listens(m);
	struct pollfd p[] = {
		{m->qmp.fd < 0 ? m->qmp.listen_fd : m->qmp.fd, (short)(POLLIN | (m->qmp.out.n ? POLLOUT : 0)),
			0},
		{m->agent.fd < 0 ? m->agent.listen_fd : m->agent.fd,
			(short)((listens || m->agent.fd < 0 ? POLLIN : 0) | (m->agent.out.n ? POLLOUT : 0)),
			0},
	};

	if (poll(p, 2, timeout(m)) < 0)
		return;
	if (p[0].revents && accepted(&m->qmp))
		greet(m);
	else if ((p[0].revents & (POLLIN | POLLHUP)) && received(&m->qmp))
		qmp_input(m);
	if (p[1].revents && !accepted(&m->agent)) {
		if (!listens && (p[1].revents & POLLHUP))
			hang_up(&m->agent);
		else if (listens && (p[1].revents & (POLLIN | POLLHUP)) && received(&m->agent))
			agent_input(m);
	}
	sent(&m->qmp);
	sent(&m->agent);
	if (m->fault == FAULT_CLOSE && m->qmp.fd >= 0 && m->qmp.out.n == 0)
		hang_up(&m->qmp);
}

int main(int argc, char **argv)
{
	struct machine m = {.qmp = {.fd = -1}, .agent = {.fd = -1}};

	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		puts("QEMU emulator version 7.2.0 (fake)");
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "--faults") == 0) {
		for (size_t i = 0; i < ARRAY_SIZE(faults); i++)
			printf("%-14s%s\n", faults[i].name, faults[i].what);
		return 0;
	}
	new_boot_id(m.boot_id);
	read_options(argc, argv, &m);
	if (m.fault == FAULT_NOPOWER)
		signal(SIGTERM, SIG_IGN);
	while (!(m.ended && m.agent.out.n == 0 && m.qmp.out.n == 0)) {
		step(&m);
		if (m.fault == FAULT_PANIC && m.booted_ms && clock_ms() - m.booted_ms >= PANIC_MS) {
			say("Kernel panic - not syncing: fault\r\n");
			break;
		}
	}
	return 0;
}
