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
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/frame.h"
#include "daemon/vmm/vmm.h"
#include "tests/fake/fake.h"

enum {
	PANIC_MS = 300,	      /* from `cont` to the panic */
	MARKER_MS = 5,	      /* from `cont` to the agent's first answer */
	STREAM_N = 1 << 20,   /* bytes of a saved machine: more than a socket holds */
	STREAM_MAX = 2 << 20, /* of one that is loaded */
	MEMORY_AT = 1 << 20,  /* where it lies in the guest's memory */
};

/* The guest's memory, where it is a file; and whether the stream does without it (x-ignore-shared). */
static struct {
	int fd;
	bool left_out;
} memory = {.fd = -1};

/* A migration in or out (QEMU's docs/devel/migration.rst). */
static struct {
	int fd;		    /* -1: none goes on */
	bool incoming;	    /* `-incoming defer`, and nothing was loaded yet */
	bool done;	    /* the machine was saved, and hasn't run since */
	const char *status; /* of what is going on, or went on last */
	struct buf data;
} stream = {.fd = -1, .status = "none"};

/* The path in "socket,id=...,path=PATH,server=on". */
static char *path_in(const char *option)
{
	const char *s = strstr(option, ",path=");

	return s ? strndup(s + 6, strcspn(s + 6, ",")) : NULL;
}

/* A saved one is there to be read. */
static void open_memory(const char *option)
{
	const char *path = strstr(option, ",mem-path=");
	auto_free char *name = path ? strndup(path + 10, strcspn(path + 10, ",")) : NULL;

	if (name == NULL)
		return;
	memory.fd = open(name, O_RDWR | O_CLOEXEC);
	if (memory.fd < 0)
		memory.fd = open(name, O_RDONLY | O_CLOEXEC);
}

static void read_options(int argc, char **argv, struct machine *m)
{
	const char *env = getenv("FAKE_VMM");
	auto_free char *qmp = NULL;
	auto_free char *agent = NULL;

	if (env)
		fault_set(m, env, strlen(env));
	for (int i = 1; i + 1 < argc; i++) {
		if (strcmp(argv[i], "-append") == 0)
			fault_set_of_line(m, argv[i + 1]);
		stream.incoming = stream.incoming || strcmp(argv[i], "-incoming") == 0;
		if (strncmp(argv[i + 1], "memory-backend-file,", 20) == 0)
			open_memory(argv[i + 1]);
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

#define RUBBISH "SSH-2.0-OpenSSH_9.2\r\n"

static void greet(struct machine *m)
{
	if (m->fault == FAULT_HUNG)
		return;
	qmp_say(m, m->fault == FAULT_GARBAGE
			   ? RUBBISH
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

/* ---- migration ---- */

static const char *begin_save(struct machine *m)
{
	if (stream.done)
		return "Can't migrate the vm that was paused due to previous migration";
	if (m->control.passed < 0)
		return "File descriptor named 'saved' has not been found";
	stream.fd = STEAL_FD(m->control.passed);
	stream.status = "active";
	machine_save(m, &stream.data);
	if (memory.left_out &&
		pwrite(memory.fd, stream.data.p, stream.data.n, MEMORY_AT) != (ssize_t)stream.data.n)
		return "there is no memory to leave out";
	while (stream.data.n < STREAM_N)
		buf_add(&stream.data, "memory", 6);
	if (m->fault == FAULT_NOSAVE || m->fault == FAULT_BADSAVE) {
		stream.status = m->fault == FAULT_NOSAVE ? "failed" : stream.status;
		fcm_closep(&stream.fd);
	}
	return NULL;
}

static void save_more(struct machine *m)
{
	ssize_t n = send(stream.fd, stream.data.p, stream.data.n, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n < 0)
		stream.status = "failed";
	else if (m->fault != FAULT_BIGSAVE)
		buf_drop(&stream.data, (size_t)n);
	if (n >= 0 && stream.data.n)
		return;
	stream.done = n >= 0;
	stream.status = stream.done ? "completed" : stream.status;
	buf_done(&stream.data);
	fcm_closep(&stream.fd);
}

static const char *begin_load(struct machine *m)
{
	if (!stream.incoming || m->control.passed < 0)
		return "'-incoming' was not specified on the command line";
	stream.fd = STEAL_FD(m->control.passed);
	return NULL;
}

static bool is_memory_there(const struct machine *m)
{
	_cleanup_(buf_done) struct buf want = {0};
	char have[128];

	machine_save(m, &want);
	return want.n <= sizeof have && pread(memory.fd, have, want.n, MEMORY_AT) == (ssize_t)want.n &&
	       memcmp(have, want.p, want.n) == 0;
}

static void load_more(struct machine *m)
{
	char chunk[65536];
	ssize_t n = recv(stream.fd, chunk, sizeof chunk, MSG_DONTWAIT);

	if (n > 0 && stream.data.n < STREAM_MAX) {
		buf_add(&stream.data, chunk, (size_t)n);
		return;
	}
	if (n < 0 && errno == EAGAIN)
		return;
	fcm_closep(&stream.fd);
	if (m->fault == FAULT_BADLOAD)
		return;
	if (n != 0 || stream.data.n < STREAM_N || !machine_load(m, stream.data.p, stream.data.n) ||
		(memory.left_out && !is_memory_there(m))) {
		fprintf(stderr, "fake-vmm: load of migration failed: Invalid argument\n");
		exit(1);
	}
	buf_done(&stream.data);
	stream.incoming = false;
}

/* What there is to wait for. */
static struct pollfd stream_poll(const struct machine *m)
{
	bool stops = m->fault == FAULT_CUTSAVE && stream.data.n <= STREAM_N / 2;

	return (struct pollfd){stream.fd, stops ? 0 : stream.incoming ? POLLIN : POLLOUT, 0};
}

static const char *run_state(const struct machine *m)
{
	if (stream.incoming)
		return "inmigrate";
	if (stream.done)
		return "postmigrate";
	return m->running ? "running" : "paused";
}

/* True when it was such a command. */
static bool migration_command(struct machine *m, const char *line, long long id)
{
	_cleanup_(buf_done) struct buf b = {0};
	const char *error = NULL;

	if (is_command(line, "getfd"))
		error = m->control.passed < 0 ? "No file descriptor supplied via SCM_RIGHTS" : NULL;
	else if (is_command(line, "migrate"))
		error = begin_save(m);
	else if (is_command(line, "migrate-incoming"))
		error = begin_load(m);
	else if (is_command(line, "query-status"))
		buf_printf(&b, "\"return\": {\"status\": \"%s\", \"running\": %s}", run_state(m),
			m->running ? "true" : "false");
	else if (is_command(line, "query-migrate"))
		buf_printf(&b, "\"return\": {\"status\": \"%s\"%s}", stream.status,
			m->fault == FAULT_NOSAVE ? ", \"error-desc\": \"no \\u001b[5mway out\"" : "");
	else if (is_command(line, "migrate-set-capabilities"))
		memory.left_out = strstr(line, "\"x-ignore-shared\",\"state\":true") != NULL;
	else if (!is_command(line, "migrate-set-parameters"))
		return false;
	if (error)
		buf_printf(&b, "\"error\": {\"class\": \"GenericError\", \"desc\": \"%s\"}", error);
	answer(m, b.n ? b.p : "\"return\": {}", id);
	return true;
}

static void write_disk(void)
{
	static unsigned runs;
	auto_close int fd = open(VMM_DISK, O_WRONLY | O_CLOEXEC);
	auto_free char *text = xprintf("%08u", ++runs);

	if (fd >= 0)
		(void)!pwrite(fd, text, strlen(text), 0);
}

static void run(struct machine *m)
{
	stream.done = false;
	machine_boot(m);
	if (m->fault == FAULT_WRITES)
		write_disk();
}

/* Our daemon writes commands without spaces; this is no JSON parser. */
static void command(struct machine *m, const char *line)
{
	static const char event[] =
		"{\"timestamp\": {\"seconds\": 1, \"microseconds\": 0}, \"event\": \"RTC_CHANGE\"}\r\n";
	const char *s = strstr(line, "\"id\":");
	long long id = s ? strtoll(s + 5, NULL, 10) : 0;

	machine_called(m);
	if (is_command(line, "migrate") || is_command(line, "migrate-incoming"))
		machine_saves(m);
	if (m->fault == FAULT_HUNG)
		return;
	if (m->fault == FAULT_GARBAGE) {
		qmp_say(m, RUBBISH);
		return;
	}
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
	if (migration_command(m, line, id))
		return;
	if (is_command(line, "cont"))
		run(m);
	else if (is_command(line, "stop") && m->fault == FAULT_BADSTOP) {
		m->running = false;
		answer(m, "\"error\": {\"class\": \"GenericError\", \"desc\": \"later\"}", id);
		return;
	} else if (is_command(line, "stop"))
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

static int timeout(const struct machine *m, bool listens)
{
	if (m->fault == FAULT_PANIC && m->booted_ms)
		return clock_left(m->booted_ms + PANIC_MS);
	return m->running && !listens ? MARKER_MS : -1;
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
		stream_poll(m),
	};

	if (poll(p, ARRAY_SIZE(p), timeout(m, listens)) < 0)
		return;
	if (p[2].revents)
		console_input();
	if (p[3].revents)
		stream.incoming ? load_more(m) : save_more(m);
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
	struct machine m = {.control = NO_PEER, .agent = NO_PEER};

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
