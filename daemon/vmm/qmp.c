#include "daemon/vmm/qmp.h"

#include <fcntl.h>
#include <string.h>

#include "daemon/vmm/socket.h"

/* Length of the first whole line in q->in with its newline; more is read until there is one. */
static int read_line(struct qmp *q, int64_t deadline, size_t *ret, struct fcm_error *err)
{
	char chunk[4096];
	size_t seen = 0;

	for (;;) {
		const char *nl = q->in.n > seen ? memchr(q->in.p + seen, '\n', q->in.n - seen) : NULL;
		if (nl) {
			*ret = (size_t)(nl - q->in.p) + 1;
			return 0;
		}
		seen = q->in.n;
		if (seen > QMP_LINE_MAX) {
			q->broken = true;
			return fcm_fail(
				err, FCM_VMM, "the VMM sent a line of more than %d bytes", QMP_LINE_MAX);
		}
		ssize_t n = vmm_receive(q->fd, chunk, sizeof chunk, deadline, err);
		if (n < 0)
			return -1;
		if (n == 0)
			return fcm_fail(err, FCM_VMM, "the VMM closed its control socket");
		buf_add(&q->in, chunk, (size_t)n);
	}
}

/* The next line as an object. */
static field_json *read_object(struct qmp *q, int64_t deadline, struct fcm_error *err)
{
	size_t n;

	if (read_line(q, deadline, &n, err) < 0)
		return NULL;
	auto_json field_json *v = fj_parse(q->in.p, n, err);
	buf_drop(&q->in, n);
	if (v == NULL || !fj_is_object(v)) {
		q->broken = true;
		fcm_fail(err, FCM_VMM, "the VMM sent what is no JSON object");
		return NULL;
	}
	return STEAL(v);
}

/* The words of a refusal: foreign text. */
static int refused(const char *command, const field_json *error, struct fcm_error *err)
{
	char text[160];

	fcm_copy(text, sizeof text, fj_get_str(error, "desc"));
	vmm_clean(text, strlen(text));
	return fcm_fail(err, FCM_VMM, "the VMM refused %s: %s", command, text);
}

/* Wait for the answer to the last command; events and answers to others are passed over. What it returned is the caller's,
 * unless `ret` is NULL. */
static int wait_answer(
	struct qmp *q, const char *command, int64_t deadline, field_json **ret, struct fcm_error *err)
{
	for (;;) {
		auto_json field_json *v = read_object(q, deadline, err);
		if (v == NULL)
			return -1;
		if (fj_get_int(v, "id", -1) != (int64_t)q->id)
			continue;
		const field_json *error = fj_get(v, "error");
		field_json *returned = fj_get(v, "return");
		if (error == NULL && returned == NULL)
			return fcm_fail(err, FCM_VMM, "the VMM's answer to %s says nothing", command);
		if (error)
			return refused(command, error, err);
		if (ret)
			*ret = fj_ref(returned);
		return 0;
	}
}

/* A command with its arguments (or NULL) and a descriptor (or -1). */
static int run(struct qmp *q, const char *command, const char *arguments, int passed, int64_t deadline,
	field_json **ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf b = {0};

	if (q->broken)
		return fcm_fail(err, FCM_VMM, "the VMM's control connection broke in an earlier command");
	q->broken = true;
	q->id++;
	buf_printf(&b, "{\"execute\":\"%s\",\"id\":%u", command, q->id);
	if (arguments)
		buf_printf(&b, ",\"arguments\":%s", arguments);
	buf_str(&b, "}\n");
	if (vmm_send_fd(q->fd, b.p, b.n, passed, deadline, err) < 0)
		return -1;
	q->broken = false;
	return wait_answer(q, command, deadline, ret, err);
}

int qmp_run(
	struct qmp *q, const char *command, const char *arguments, int64_t deadline, struct fcm_error *err)
{
	return run(q, command, arguments, -1, deadline, NULL, err);
}

int qmp_ask(struct qmp *q, const char *command, field_json **ret, int64_t deadline, struct fcm_error *err)
{
	return run(q, command, NULL, -1, deadline, ret, err);
}

int qmp_give(struct qmp *q, const char *name, int fd, int64_t deadline, struct fcm_error *err)
{
	auto_free char *arguments = xprintf("{\"fdname\":\"%s\"}", name);

	return run(q, "getfd", arguments, fd, deadline, NULL, err);
}

static int shake_hands(struct qmp *q, int64_t deadline, struct fcm_error *err)
{
	if (fcntl(q->fd, F_SETFL, O_NONBLOCK) < 0)
		return fcm_fail_errno(err, "control socket");
	auto_json field_json *greeting = read_object(q, deadline, err);
	if (greeting == NULL)
		return -1;
	if (fj_get(greeting, "QMP") == NULL)
		return fcm_fail(err, FCM_VMM, "the VMM's control socket doesn't speak QMP");
	return qmp_run(q, "qmp_capabilities", NULL, deadline, err);
}

int qmp_open(struct qmp *q, int fd, int64_t deadline, struct fcm_error *err)
{
	*q = (struct qmp){.fd = fd};
	if (shake_hands(q, deadline, err) == 0)
		return 0;
	qmp_done(q);
	return -1;
}

void qmp_done(struct qmp *q)
{
	fcm_closep(&q->fd);
	buf_done(&q->in);
}
