/*
 * The gate: when a start is done (docs/API.md, "Readiness"). A port, a URL or a command is asked for in the guest, by its
 * agent; a line of the console is looked for in the shim's ring. Without any wish it is enough that the guest is set up
 * and, where it boots an image with an ssh server, that this one can be reached from here. One that goes on from its memory is
 * as ready as it was.
 *
 * A row with it is STEP_KEEP: a guest that isn't ready in time runs on, for its user to look at.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/pattern.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/probe.h"
#include "daemon/engine/wait.h"
#include "daemon/shim/shim.h"

enum {
	SLICE_MS = 200, /* how often a wait looks whether it still makes sense */
	CONNECT_MS =
		1000, /* one try to connect: TCP would wait longer before it sends a SYN again that was lost */
	BANNER_MS = 60000, /* what a connected sshd may take to begin */
	PROBE_MS = 10000,  /* one question to the guest */
	FAIR_MS = 1000,	   /* what one should have at least */
	BETWEEN_MS = 250,  /* from one to the next, when the user doesn't say */
	BANNER_EACH_MS = 20,
	WHAT_MAX = 240,
};

int wait_wanted(const struct vm *vm, struct fcm_error *err)
{
	if (engine_stopping())
		return fcm_fail(err, FCM_UNAVAILABLE,
			"the daemon is stopping; the VM goes on and the next daemon adopts it");
	return vm->urgent ? fcm_fail(err, FCM_CANCELLED, "another request kills the VM") : 0;
}

int wait_goes_on(
	struct op *op, int64_t deadline, int64_t patience_ms, const char *what, struct fcm_error *err)
{
	if (!op_vmm_lives(op)) {
		fcm_fail(err, FCM_GUEST, "the VM ended while it was booting");
		return op_last_words(op, err);
	}
	if (wait_wanted(op->vm, err) < 0)
		return -1;
	if (clock_left(deadline) == 0) {
		fcm_fail(err, FCM_TIMEOUT, "%s within %lld s; the VM is left running", what,
			(long long)patience_ms / 1000);
		return op_last_words(op, err);
	}
	return 0;
}

const struct ready_spec *wait_ready_spec(const struct op *op)
{
	return ready_given(&op->ready) ? &op->ready : &op->vm->view.spec.ready;
}

static int64_t ready_ms(const struct ready_spec *r)
{
	return (r->timeout ? r->timeout : engine()->config->boot_seconds) * 1000ll;
}

static int64_t between_ms(const struct ready_spec *r)
{
	return r->interval ? r->interval * 1000ll : BETWEEN_MS;
}

/* One that is being waited for. */
struct gate {
	struct op *op;
	const struct ready_spec *spec;
	int64_t deadline;
	char name[80];	     /* "tcp=8000" */
	char why[PROBE_WHY]; /* it hasn't opened so far */
	bool answered;	     /* a question has had an answer */
};

static int goes_on(struct gate *g, struct fcm_error *err)
{
	char what[WHAT_MAX];

	(void)fcm_format(what, sizeof what, "%s did not become ready (%s)", g->name, g->why);
	return wait_goes_on(g->op, g->deadline, ready_ms(g->spec), what, err);
}

/* Until the next try. */
static int pause_between(struct gate *g, struct fcm_error *err)
{
	int64_t until = MIN(clock_in(between_ms(g->spec)), g->deadline);

	do {
		if (goes_on(g, err) < 0)
			return -1;
		clock_sleep(MIN(SLICE_MS, clock_left(until)));
	} while (clock_left(until));
	return goes_on(g, err);
}

/* ---- ssh, tcp, http, exec: the agent asks ---- */

/* A last try that was cut short says less than the one before. */
static void note_silence(struct gate *g, int64_t begun)
{
	if (!g->answered || clock_ms() - begun >= FAIR_MS)
		fcm_copy(g->why, sizeof g->why, "no answer came");
}

/* Wait for the answer. 1: it is open, 0: it isn't, -1. */
static int await(struct gate *g, struct probe *p, int64_t deadline, struct fcm_error *err)
{
	char why[PROBE_WHY];

	for (int64_t begun = clock_ms();;) {
		struct pollfd fd = {.fd = probe_fd(p), .events = POLLIN};
		switch (probe_poll(p, why)) {
		case PROBE_GOOD:
			return 1;
		case PROBE_BAD:
			fcm_copy(g->why, sizeof g->why, why);
			g->answered = true;
			return 0;
		case PROBE_LATER:
			break;
		}
		if (clock_left(deadline) == 0) {
			note_silence(g, begun);
			return 0;
		}
		if (goes_on(g, err) < 0)
			return -1;
		poll(&fd, 1, MIN(SLICE_MS, clock_left(deadline)));
	}
}

static int try_probe(struct gate *g, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf rq = {0};
	int64_t deadline = MIN(clock_in(PROBE_MS), g->deadline);
	struct vm *vm = g->op->vm;
	struct fcm_error why;
	struct probe *p;

	/* at least a millisecond: for a last try at the deadline */
	probe_of_ready(g->spec, vm->view.ip, MAX(clock_left(deadline), 1), &rq);
	if (vm->guest == NULL || probe_begin(vm->guest, &rq, &p, &why) < 0) {
		fcm_copy(g->why, sizeof g->why, vm->guest ? why.msg : "the guest's agent has no session");
		return 0;
	}
	int rc = await(g, p, deadline, err);
	probe_free(p);
	return rc;
}

static int wait_probe(struct gate *g, struct fcm_error *err)
{
	int rc;

	while ((rc = try_probe(g, err)) == 0)
		if (pause_between(g, err) < 0)
			return -1;
	return rc < 0 ? -1 : 0;
}

/* ---- log ---- */

static int wait_line(struct gate *g, struct fcm_error *err)
{
	_cleanup_(pattern_done) struct pattern pattern = {.text = g->spec->log};
	struct vm *vm = g->op->vm;
	uint64_t seen = (uint64_t)vm->run.console; /* what an earlier run said doesn't count */

	for (;;) {
		_cleanup_(buf_done) struct buf text = {0};
		if (shim_ring_since(vm->dirfd, seen, &text, &seen, err) < 0)
			return -1;
		if (pattern_feed(&pattern, text.p, text.n))
			return 0;
		if (pause_between(g, err) < 0)
			return -1;
	}
}

/* ---- auto ---- */

/* A connection to the guest's port 22, or -1. */
static int ssh_connect(const struct vm *vm)
{
	auto_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(22), .sin_addr = vm->view.ip};
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	int failed = 0;
	socklen_t size = sizeof failed;

	if (fd < 0 || (connect(fd, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS) ||
		poll(&p, 1, CONNECT_MS) != 1 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &size) < 0 ||
		failed)
		return -1;
	return STEAL_FD(fd);
}

static int sshd_goes_on(struct op *op, const struct ready_spec *r, int64_t deadline, struct fcm_error *err)
{
	return wait_goes_on(op, deadline, ready_ms(r), "the guest's sshd did not answer", err);
}

/*
 * Read "SSH-" (RFC 4253, section 4.2). 1, or 0 when it doesn't come, or -1. A connection is sshd's work of seconds where all is
 * slow; to drop it and ask anew would keep such a guest from ever getting up.
 */
static int read_banner(
	struct op *op, int fd, const struct ready_spec *r, int64_t deadline, struct fcm_error *err)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int64_t until = clock_in(BANNER_MS);
	char text[4];

	while (clock_left(until)) {
		if (sshd_goes_on(op, r, deadline, err) < 0)
			return -1;
		if (poll(&p, 1, SLICE_MS) == 1)
			return recv(fd, text, sizeof text, 0) == 4 && memcmp(text, "SSH-", 4) == 0;
	}
	return 0;
}

static int wait_banner(struct op *op, const struct ready_spec *r, struct fcm_error *err)
{
	int64_t deadline = clock_in(ready_ms(r));
	int rc;

	if (strcmp(op->vm->sshd, "none") == 0)
		return 0;
	do {
		auto_close int fd = ssh_connect(op->vm);
		if (fd >= 0 && (rc = read_banner(op, fd, r, deadline, err)) != 0)
			return rc < 0 ? -1 : 0;
		clock_sleep(BANNER_EACH_MS);
	} while (sshd_goes_on(op, r, deadline, err) == 0);
	return -1;
}

/* ---- */

/* The gate as a user writes it; what it is waiting for may be long. */
static void write_name(const struct ready_spec *r, char *ret, size_t size)
{
	const char *mode = ready_mode_names[r->mode];
	const char *arg = r->mode == READY_HTTP ? r->url : r->mode == READY_LOG ? r->log : r->exec;

	if (r->mode == READY_TCP)
		(void)fcm_format(ret, size, "%s=%u", mode, r->port);
	else if (arg)
		(void)fcm_format(ret, size, "%s=%s", mode, arg);
	else
		fcm_copy(ret, size, mode);
	fcm_make_printable(ret);
}

static int ready(struct op *op, struct fcm_error *err)
{
	const struct ready_spec *r = wait_ready_spec(op);
	struct gate g = {.op = op, .spec = r, .deadline = clock_in(ready_ms(r)), .why = "nothing answered"};

	if (op->vm->view.spec.hold)
		return 0; /* whoever lets its main process go waits for it */
	write_name(r, g.name, sizeof g.name);
	switch (r->mode) {
	case READY_AUTO:
		if (op->vm->view.spec.main.args.n)
			return 0; /* it is there for its main process, which runs */
		if (op->vm->loading)
			return 0; /* its sshd runs on, and a session's first word takes a new program */
		return wait_banner(op, r, err);
	case READY_NONE:
	case READY_AGENT:
		return 0;
	case READY_SSH:
	case READY_TCP:
	case READY_HTTP:
	case READY_EXEC:
		return wait_probe(&g, err);
	case READY_LOG:
		if (op->vm->loading)
			return 0; /* it was said before the machine was saved */
		fcm_copy(g.why, sizeof g.why, "no line of the console matches");
		return wait_line(&g, err);
	}
	return 0;
}

static void ready_describe(const struct op *op, bool undo, struct strv *ret)
{
	const struct ready_spec *r = wait_ready_spec(op);
	char name[80];

	(void)undo;
	write_name(r, name, sizeof name);
	if (r->mode == READY_AUTO)
		strv_addf(ret, "connect to %s:22 until its sshd sends its banner, where the image has one",
			ip_dotted(op->vm->view.ip).s);
	else if (r->mode != READY_NONE && r->mode != READY_AGENT)
		strv_addf(ret, "wait for %s, at most %lld s", name, (long long)ready_ms(r) / 1000);
}

const struct step step_ready = {.name = "ready", .run = ready, .describe = ready_describe};
