/*
 * fake-vmm: QEMU's command line, QMP and the agent's protocol, and no guest. For tests and benches of the daemon with
 * more VMs than a machine without KVM can boot: about 1 MiB each, ready in a millisecond, idle at no cost.
 *
 * Honest unless the VM's name, as the guest's `ip=` word has it, is fault-<kind> or fault-<kind>-<anything>: so one
 * daemon can run both kinds, and no file or variable must find its way into the jail. $FAKE_VMM=<kind> does the same by
 * hand. The kinds are in the table in machine.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/frame.h"
#include "tests/fake/fake.h"

enum {
	PANIC_MS = 300, /* from `cont` to the panic */
	MARKER_MS = 5,	/* from `cont` to the agent's first answer */
};

/* The path in "socket,id=...,path=PATH,server=on". */
static char *path_in(const char *option)
{
	const char *s = strstr(option, ",path=");

	return s ? strndup(s + 6, strcspn(s + 6, ",")) : NULL;
}

static void read_options(int argc, char **argv, struct machine *m)
{
	const char *env = getenv("FAKE_VMM");
	auto_free char *qmp = NULL;
	auto_free char *agent = NULL;

	m->fault = env ? fault_find(env, strlen(env)) : FAULT_NONE;
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
	m->control.listen_fd = machine_listen(qmp);
	m->agent.listen_fd = machine_listen(agent);
}

static void qmp_say(struct machine *m, const char *text)
{
	size_t n = strlen(text);

	buf_add(&m->control.out, text, m->fault == FAULT_HALF ? n / 2 : n);
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
		clock_sleep(FAULT_SLOW_MS);
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
		machine_boot(m);
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
		char *nl = m->control.in.n ? memchr(m->control.in.p, '\n', m->control.in.n) : NULL;
		if (nl == NULL)
			return;
		*nl = '\0';
		command(m, m->control.in.p);
		buf_drop(&m->control.in, (size_t)(nl - m->control.in.p) + 1);
	}
}

/* The agent answers once the CPUs run and the guest would be up. */
static bool agent_listens(const struct machine *m)
{
	return m->running && clock_ms() - m->booted_ms >= MARKER_MS;
}

static struct buf console; /* what was typed */
static bool console_ended;

/* The serial console: "flood N" prints N MiB, any other line is answered by "fake guest: got <line>". */
static void console_line(const char *line)
{
	long mib = strncmp(line, "flood ", 6) == 0 ? strtol(line + 6, NULL, 10) : 0;
	char text[1024];

	memset(text, 'f', sizeof text);
	text[sizeof text - 1] = '\n';
	for (long i = 0; i < mib * 1024; i++)
		(void)!fd_write_all(STDOUT_FILENO, text, sizeof text);
	printf("fake guest: got %s\r\n", line);
	fflush(stdout);
}

static void console_input(void)
{
	char chunk[4096];
	ssize_t n = read(STDIN_FILENO, chunk, sizeof chunk);
	char *end;

	if (n <= 0) {
		console_ended = true;
		return;
	}
	buf_add(&console, chunk, (size_t)n);
	while ((end = console.n ? memchr(console.p, '\n', console.n) : NULL)) {
		*end = '\0';
		console_line(console.p);
		buf_drop(&console, (size_t)(end - console.p) + 1);
	}
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
		{m->control.fd < 0 ? m->control.listen_fd : m->control.fd,
			(short)(POLLIN | (m->control.out.n ? POLLOUT : 0)), 0},
		{m->agent.fd < 0 ? m->agent.listen_fd : m->agent.fd,
			(short)((listens || m->agent.fd < 0 ? POLLIN : 0) | (m->agent.out.n ? POLLOUT : 0)),
			0},
		{console_ended ? -1 : STDIN_FILENO, POLLIN, 0},
	};

	if (poll(p, ARRAY_SIZE(p), timeout(m)) < 0)
		return;
	if (p[2].revents)
		console_input();
	if (p[0].revents && peer_accept(&m->control))
		greet(m);
	else if ((p[0].revents & (POLLIN | POLLHUP)) && peer_receive(&m->control))
		qmp_input(m);
	if (p[1].revents && !peer_accept(&m->agent)) {
		if (!listens && (p[1].revents & POLLHUP))
			peer_hang_up(&m->agent);
		else if (listens && (p[1].revents & (POLLIN | POLLHUP)) && peer_receive(&m->agent))
			agent_input(m);
	}
	peer_send(&m->control);
	peer_send(&m->agent);
	if (m->fault == FAULT_CLOSE && m->control.fd >= 0 && m->control.out.n == 0)
		peer_hang_up(&m->control);
}

int main(int argc, char **argv)
{
	struct machine m = {.control = {.fd = -1}, .agent = {.fd = -1}};

	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		puts("QEMU emulator version 7.2.0 (fake)");
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "--faults") == 0) {
		fault_list();
		return 0;
	}
	machine_boot_id(m.boot_id);
	read_options(argc, argv, &m);
	if (m.fault == FAULT_NOPOWER)
		signal(SIGTERM, SIG_IGN);
	while (!(m.ended && m.agent.out.n == 0 && m.control.out.n == 0)) {
		step(&m);
		if (m.fault == FAULT_PANIC && m.booted_ms && clock_ms() - m.booted_ms >= PANIC_MS) {
			puts("Kernel panic - not syncing: fault\r");
			break;
		}
	}
	return 0;
}
