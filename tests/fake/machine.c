/* What both scripted VMMs are made of. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/frame.h"
#include "tests/fake/fake.h"

enum { IN_MAX = 4 * FRAME_MAX };

static const struct {
	const char *name;
	enum fault fault;
	const char *what;
} faults[] = {
	{"exit", FAULT_EXIT, "says why and ends with 1 at once"},
	{"nosocket", FAULT_NOSOCKET, "runs, and never makes its sockets"},
	{"hung", FAULT_HUNG, "accepts connections and says nothing"},
	{"slow", FAULT_SLOW, "answers each call after 3 s"},
	{"garbage", FAULT_GARBAGE, "says what is no answer"},
	{"half", FAULT_HALF, "sends the first half of each answer"},
	{"close", FAULT_CLOSE, "closes each connection before its first answer"},
	{"flood", FAULT_FLOOD, "20,000 events, or 1 MiB of headers, before each answer"},
	{"refuse", FAULT_REFUSE, "refuses each call but the first"},
	{"deaf", FAULT_DEAF, "an agent that says nothing"},
	{"late", FAULT_LATE, "an agent that says nothing for 4 s"},
	{"agentgarbage", FAULT_AGENT_GARBAGE, "an agent that answers with rubbish"},
	{"agenthalf", FAULT_AGENT_HALF, "an agent that sends half of each frame"},
	{"agentflood", FAULT_AGENT_FLOOD, "an agent that sends 1,000 events before each answer"},
	{"agenterror", FAULT_AGENT_ERROR, "an agent that fails each request but ping"},
	{"nopower", FAULT_NOPOWER, "neither the agent nor ctrl-alt-del ends it, nor SIGTERM"},
	{"panic", FAULT_PANIC, "ends 0.3 s after it was started, without a word"},
	{"order", FAULT_ORDER, "fake-firecracker: each answer belongs to another call"},
	{"twice", FAULT_TWICE, "fake-firecracker: each answer comes twice"},
	{"lost", FAULT_LOST,
		"fake-firecracker: the first connection to the agent is closed at once, the second never "
		"answered"},
	{"reset", FAULT_RESET, "closes the channel to the agent at its first request"},
	{"noise", FAULT_NOISE, "fake-firecracker: rubbish in place of the answer to CONNECT"},
	{"console", FAULT_CONSOLE, "prints 8 MiB to the console at start"},
	{"nosave", FAULT_NOSAVE,
		"fails to save the machine; fake-firecracker: says that it has, and writes nothing"},
	{"bigsave", FAULT_BIGSAVE, "a stream without an end; fake-firecracker: a page too much of memory"},
	{"cutsave", FAULT_CUTSAVE, "a stream that stops; fake-firecracker: half of the memory"},
	{"badsave", FAULT_BADSAVE,
		"ends the stream and saves on for ever; fake-firecracker: a link in place of the memory"},
	{"badload", FAULT_BADLOAD, "never has it loaded; fake-firecracker: has, and dies"},
	{"badstop", FAULT_BADSTOP, "fake-vmm: halts its CPUs, and says that it could not"},
	{"writes", FAULT_WRITES, "fake-vmm: begins its disk with how often its CPUs were let run"},
};

static enum fault fault_find(const char *kind, size_t n)
{
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++)
		if (strlen(faults[i].name) == n && strncmp(faults[i].name, kind, n) == 0)
			return faults[i].fault;
	return FAULT_NONE;
}

void fault_set(struct machine *m, const char *kind, size_t n)
{
	unsigned at = 0;
	int end = 0;

	if (n && m->fault == FAULT_NONE)
		m->fault = fault_find(kind, n);
	if (n && m->fault == FAULT_NONE && kind[0] == 's')
		m->later = fault_find(kind + 1, n - 1);
	if (sscanf(kind, "die%3u%n", &at, &end) == 1 && (size_t)end == n)
		m->die_at = at;
}

/* The name is the word between the fourth and the fifth colon of ip=. */
void fault_set_of_line(struct machine *m, const char *line)
{
	const char *s = strstr(line, "ip=");

	for (int i = 0; s && i < 4; i++) {
		s = strchr(s, ':');
		s = s ? s + 1 : NULL;
	}
	if (s && strncmp(s, "fault-", 6) == 0)
		fault_set(m, s + 6, strcspn(s + 6, "-:"));
}

void machine_called(struct machine *m)
{
	if (++m->calls == m->die_at)
		_exit(1);
}

void machine_saves(struct machine *m)
{
	if (m->later)
		m->fault = m->later;
}

#define SAVED "fake machine"

void machine_save(const struct machine *m, struct buf *ret)
{
	buf_printf(ret, SAVED " %s %d\n", m->boot_id, m->mounted);
}

bool machine_load(struct machine *m, const char *text, size_t n)
{
	auto_free char *line = strndup(text, n);
	int mounted;

	if (sscanf(line, SAVED " %36s %d", m->boot_id, &mounted) != 2)
		return false;
	m->mounted = mounted;
	m->booted_ms = clock_ms();
	return true;
}

void fault_list(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++)
		printf("%-14s%s\n", faults[i].name, faults[i].what);
	puts("dieN          ends when the N-th call comes, before it answers\n"
	     "s<kind>       honest until the machine is saved or loaded, as sgarbage");
}

int machine_listen(const char *path)
{
	struct fcm_error err;
	int fd = unix_listen(AT_FDCWD, path, 0600, SOCK_NONBLOCK, &err);

	if (fd < 0) {
		fprintf(stderr, "%s: %s\n", program_invocation_short_name, err.msg);
		exit(1);
	}
	return fd;
}

void machine_boot_id(char id[37])
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

void machine_boot(struct machine *m)
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

void peer_hang_up(struct peer *p)
{
	fcm_closep(&p->fd);
	buf_done(&p->in);
	buf_done(&p->out);
}

/* As QEMU does, serve one connection at a time. */
bool peer_accept(struct peer *p)
{
	if (p->fd >= 0)
		return false;
	p->fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	return p->fd >= 0;
}

bool peer_receive(struct peer *p)
{
	char chunk[16384];
	union {
		char room[CMSG_SPACE(sizeof p->passed)];
		struct cmsghdr head;
	} control;
	struct iovec bytes = {chunk, sizeof chunk};
	struct msghdr m = {.msg_iov = &bytes,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof control};
	ssize_t n = recvmsg(p->fd, &m, MSG_CMSG_CLOEXEC);
	const struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;

	if (c && c->cmsg_type == SCM_RIGHTS) {
		fcm_closep(&p->passed);
		memcpy(&p->passed, CMSG_DATA(c), sizeof p->passed);
	}
	if (n > 0 && p->in.n < IN_MAX) {
		buf_add(&p->in, chunk, (size_t)n);
		return true;
	}
	if (n >= 0 || (errno != EAGAIN && errno != EINTR))
		peer_hang_up(p);
	return false;
}

void peer_send(struct peer *p)
{
	ssize_t n = p->fd < 0 || p->out.n == 0 ? 0 : send(p->fd, p->out.p, p->out.n, MSG_NOSIGNAL);

	if (n > 0)
		buf_drop(&p->out, (size_t)n);
	else if (n < 0 && errno != EAGAIN && errno != EINTR)
		peer_hang_up(p);
}
