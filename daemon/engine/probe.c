#include "daemon/engine/probe.h"

#include <string.h>

#include "common/core/clock.h"
#include "common/core/kv.h"

enum {
	OUTPUT_MAX = 256 << 10, /* bytes that a command may say in all */
	PIECES = 8,		/* taken at once: a guest that talks on has to wait for the next time */
};

struct probe {
	struct guest_stream *stream;
	struct buf tail; /* the last PROBE_WHY bytes that it said */
	size_t said;
};

static void add_command(struct buf *rq, const char *line)
{
	kv_add(rq, "mode", "exec");
	kv_add(rq, "arg", "/bin/sh");
	kv_add(rq, "arg", "-c");
	kv_add(rq, "arg", line);
}

static void add_program(struct buf *rq, const struct strv *words)
{
	kv_add(rq, "mode", "exec");
	for (size_t i = 0; i < words->n; i++)
		kv_add(rq, "arg", words->v[i]);
}

static void add_place(struct buf *rq, const struct main_spec *m)
{
	if (m->args.n && m->user)
		kv_add(rq, "user", m->user);
	if (m->args.n && m->dir)
		kv_add(rq, "dir", m->dir);
}

static void add_url(struct buf *rq, const char *url, int64_t timeout_ms)
{
	kv_add(rq, "mode", "http");
	kv_add(rq, "url", url);
	kv_addf(rq, "timeout_ms", "%lld", (long long)timeout_ms);
}

void probe_of_ready(const struct ready_spec *r, struct in_addr ip, int64_t timeout_ms, struct buf *ret)
{
	kv_add(ret, "op", "probe");
	if (r->mode == READY_EXEC) {
		add_command(ret, r->exec);
	} else if (r->mode == READY_HTTP) {
		add_url(ret, r->url, timeout_ms);
	} else {
		kv_add(ret, "mode", r->mode == READY_SSH ? "ssh" : "tcp");
		kv_addf(ret, "port", "%u", r->mode == READY_SSH ? 22 : r->port);
		kv_add(ret, "address", ip_dotted(ip).s);
		kv_addf(ret, "timeout_ms", "%lld", (long long)timeout_ms);
	}
}

void probe_of_health(const struct vm_spec *spec, struct buf *ret)
{
	const struct health_spec *h = &spec->health;

	kv_add(ret, "op", "probe");
	if (h->http && *h->http) {
		add_url(ret, h->http, h->timeout * 1000ll);
		return;
	}
	if (h->args.n)
		add_program(ret, &h->args);
	else
		add_command(ret, h->cmd);
	add_place(ret, &spec->main);
}

int probe_begin(struct guest *g, const struct buf *request, struct probe **ret, struct fcm_error *err)
{
	struct guest_stream *stream;

	if (guest_stream_open(g, request, clock_ms(), &stream, err) < 0)
		return -1;
	*ret = xalloc(sizeof **ret);
	(*ret)->stream = stream;
	return 0;
}

static void keep(struct probe *p, const struct guest_piece *piece)
{
	size_t n = MIN(piece->n, (size_t)PROBE_WHY);

	p->said += piece->n;
	buf_add(&p->tail, piece->p + piece->n - n, n);
	if (p->tail.n > PROBE_WHY)
		buf_drop(&p->tail, p->tail.n - PROBE_WHY);
}

/* The last line that it said. False when it said nothing. */
static bool last_line(struct probe *p, char why[PROBE_WHY])
{
	while (p->tail.n && strchr("\r\n\t ", p->tail.p[p->tail.n - 1])) /* a NUL as well */
		p->tail.n--;
	if (p->tail.n == 0)
		return false;
	p->tail.p[p->tail.n] = '\0';
	const char *newline = memrchr(p->tail.p, '\n', p->tail.n);
	guest_text(newline ? newline + 1 : p->tail.p, why, PROBE_WHY);
	return *why != '\0';
}

static enum probe_state judge(struct probe *p, char why[PROBE_WHY])
{
	const struct buf *result;
	struct fcm_error err;

	if (guest_stream_result(p->stream, &result, &err) < 0) {
		fcm_copy(why, PROBE_WHY, err.msg);
		return PROBE_BAD;
	}
	const char *error = kv_get(result->p, result->n, "error");
	int64_t status = kv_i64(result->p, result->n, "exit", 0, 255, -1);
	int64_t signal = kv_i64(result->p, result->n, "signal", 1, 64, 0);
	if (error)
		guest_text(error, why, PROBE_WHY);
	else if (status == 0)
		return PROBE_GOOD;
	else if (!last_line(p, why) && signal)
		(void)fcm_format(why, PROBE_WHY, "it was killed by signal %d", (int)signal);
	else if (*why == '\0' && status > 0)
		(void)fcm_format(why, PROBE_WHY, "exit status %d", (int)status);
	else if (*why == '\0')
		fcm_copy(why, PROBE_WHY, "the guest's agent gave an answer that makes no sense");
	return PROBE_BAD;
}

enum probe_state probe_poll(struct probe *p, char why[PROBE_WHY])
{
	struct guest_piece piece;

	*why = '\0';
	guest_stream_clear(p->stream);
	for (int i = 0; i < PIECES; i++) {
		switch (guest_stream_read(p->stream, &piece)) {
		case GUEST_LATER:
			return PROBE_LATER;
		case GUEST_DATA:
			keep(p, &piece);
			if (p->said <= OUTPUT_MAX)
				break;
			(void)fcm_format(why, PROBE_WHY, "it said more than %d KiB", OUTPUT_MAX >> 10);
			return PROBE_BAD;
		case GUEST_END:
			break;
		case GUEST_RESULT:
		case GUEST_BROKEN:
			return judge(p, why);
		}
	}
	return PROBE_LATER;
}

int probe_fd(const struct probe *p)
{
	return guest_stream_fd(p->stream);
}

void probe_free(struct probe *p)
{
	if (p == NULL)
		return;
	guest_stream_close(p->stream);
	buf_done(&p->tail);
	free(p);
}
