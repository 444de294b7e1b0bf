/* The agent's side of docs/AGENT.md, without doing what it is asked to. */
#include "tests/fake/fake.h"

#include <string.h>

#include "common/core/clock.h"
#include "common/core/frame.h"
#include "common/core/kv.h"

static void send_frame(struct machine *m, uint32_t stream, enum frame_type type, const struct buf *payload)
{
	size_t before = m->agent.out.n;

	frame_add(&m->agent.out, stream, type, payload->p, payload->n);
	if (m->fault == FAULT_AGENT_HALF)
		m->agent.out.n = before + (m->agent.out.n - before) / 2;
}

static void answer_hello(struct machine *m, const struct frame *f)
{
	_cleanup_(buf_done) struct buf b = {0};
	const char *nonce = kv_get(f->payload, f->len, "nonce");

	kv_add(&b, "magic", FRAME_MAGIC);
	kv_addf(&b, "version", "%d", FRAME_VERSION);
	kv_add(&b, "nonce", nonce ? nonce : "");
	kv_add(&b, "boot_id", m->boot_id);
	exec_reset();
	send_frame(m, 0, FRAME_HELLO, &b);
}

static void answer_ping(const struct machine *m, const struct frame *f, struct buf *b)
{
	const char *echo = kv_get(f->payload, f->len, "echo");

	kv_add(b, "echo", echo ? echo : "");
	kv_addf(b, "uptime_ms", "%lld", (long long)(clock_ms() - m->booted_ms));
	kv_add(b, "boot_id", m->boot_id);
}

static void answer_stats(struct buf *b)
{
	kv_add(b, "memory", "268435456");
	kv_add(b, "available", "201326592");
	kv_add(b, "load", "12");
	kv_add(b, "disk", "8589934592");
	kv_add(b, "disk_used", "4194304");
}

/* Answers, then says what it is about to do, then resets. */
static void power(struct machine *m, const struct frame *f, struct buf *answer)
{
	_cleanup_(buf_done) struct buf event = {0};
	const char *intent = kv_get(f->payload, f->len, "intent");

	send_frame(m, f->stream, FRAME_RES, answer);
	if (m->fault == FAULT_NOPOWER)
		return;
	kv_add(&event, "event", "power");
	kv_add(&event, "intent", intent ? intent : "poweroff");
	send_frame(m, 0, FRAME_EVENT, &event);
	m->ended = true;
}

static void answer_request(struct machine *m, const struct frame *f)
{
	_cleanup_(buf_done) struct buf b = {0};
	const char *op = kv_get(f->payload, f->len, "op");

	op = op ? op : "";
	if (m->fault == FAULT_AGENT_ERROR && strcmp(op, "ping") != 0) {
		kv_add(&b, "error", "the disk is \033[31mon fire");
		kv_add(&b, "errno", "5");
		send_frame(m, f->stream, FRAME_RES, &b);
		return;
	}
	bool early =
		!strcmp(op, "mount") || !strcmp(op, "clock") || !strcmp(op, "ping") || !strcmp(op, "power");
	if (!early && !m->mounted) {
		kv_add(&b, "error", "nothing is mounted yet");
		send_frame(m, f->stream, FRAME_RES, &b);
		return;
	}
	if (strcmp(op, "exec") == 0) {
		exec_open(m, f);
		return;
	}
	if (!strcmp(op, "get") || !strcmp(op, "put")) {
		exec_copy(m, f);
		return;
	}
	if (strcmp(op, "probe") == 0) {
		exec_probe_open(m, f);
		return;
	}
	if (!strcmp(op, "signal") || !strcmp(op, "resize") || !strcmp(op, "close"))
		exec_control(m, op, f);
	kv_add(&b, "ok", "1");
	if (strcmp(op, "mount") == 0) {
		m->mounted = true;
		kv_add(&b, "sshd", "none");
	}
	if (strcmp(op, "ping") == 0)
		answer_ping(m, f, &b);
	if (strcmp(op, "stats") == 0)
		answer_stats(&b);
	if (strcmp(op, "thaw") == 0)
		kv_add(&b, "thawed", "1");
	if (strcmp(op, "identity") == 0)
		kv_add(&b, "closed", "0");
	if (strcmp(op, "power") == 0)
		power(m, f, &b);
	else
		send_frame(m, f->stream, FRAME_RES, &b);
}

/* An honest agent drops what can't be a frame byte by byte, until a HELLO makes sense again. */
static void parse(struct machine *m)
{
	struct buf *in = &m->agent.in;

	while (in->n > 0) {
		struct frame f;
		ssize_t n = frame_parse(in->p, in->n, &f);
		if (n == 0)
			return;
		if (m->fault == FAULT_RESET && n > 0 && f.type == FRAME_REQ) {
			m->fault = FAULT_NONE;
			peer_hang_up(&m->agent);
			return;
		}
		if (n > 0 && f.type == FRAME_HELLO)
			answer_hello(m, &f);
		if (n > 0 && f.type == FRAME_REQ)
			answer_request(m, &f);
		if (n > 0 && f.type >= FRAME_DATA)
			exec_frame(m, &f);
		buf_drop(in, n > 0 ? (size_t)n : 1);
	}
}

void agent_input(struct machine *m)
{
	static const char rubbish[] = "\xff\xff\xff\xff\xff\xff\xff\xff not a frame \r\n";
	struct buf event = {0};

	switch (m->fault) {
	case FAULT_DEAF:
		buf_drop(&m->agent.in, m->agent.in.n);
		return;
	case FAULT_LATE:
		if (clock_left(m->booted_ms + FAULT_LATE_MS) > 0)
			buf_drop(&m->agent.in, m->agent.in.n);
		break;
	case FAULT_AGENT_GARBAGE:
		buf_add(&m->agent.out, rubbish, sizeof rubbish);
		buf_drop(&m->agent.in, m->agent.in.n);
		return;
	case FAULT_AGENT_FLOOD:
		kv_add(&event, "event", "noise");
		for (int i = 0; i < 1000; i++)
			send_frame(m, 0, FRAME_EVENT, &event);
		buf_done(&event);
		break;
	case FAULT_NONE:
	case FAULT_EXIT:
	case FAULT_NOSOCKET:
	case FAULT_HUNG:
	case FAULT_SLOW:
	case FAULT_GARBAGE:
	case FAULT_HALF:
	case FAULT_CLOSE:
	case FAULT_FLOOD:
	case FAULT_REFUSE:
	case FAULT_AGENT_HALF:
	case FAULT_AGENT_ERROR:
	case FAULT_NOPOWER:
	case FAULT_PANIC:
	case FAULT_CONSOLE:
	case FAULT_ORDER:
	case FAULT_TWICE:
	case FAULT_LOST:
	case FAULT_RESET:
	case FAULT_NOISE:
	case FAULT_NOSAVE:
	case FAULT_BIGSAVE:
	case FAULT_CUTSAVE:
	case FAULT_BADSAVE:
	case FAULT_BADLOAD:
	case FAULT_BADSTOP:
	case FAULT_WRITES:
		break;
	}
	parse(m);
}
