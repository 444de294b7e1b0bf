/*
 * fcm api: any request to the daemon, for what has no command of its own.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "client/command.h"
#include "client/out.h"
#include "client/term.h"
#include "common/core/fileio.h"

enum { JSON_MAX = 4 << 20 }; /* bytes; no route takes more */

struct call_options {
	char *data;
	bool include;
};

static const struct field call_fields[] = {
	F(struct call_options, data, FIELD_STR, .max = JSON_MAX),
	F(struct call_options, include, FIELD_BOOL),
	FIELD_END,
};

static const struct option_row options[] = {
	{"data", 'd', "JSON", NULL, "the body; @FILE and - (stdin) may be an archive"},
	{"include", 'i', NULL, NULL, "show the answer's head, and the body of an error"},
	{0},
};

/* ---- the request ---- */

/* A request and its answer. */
struct call {
	int fd;		 /* where a body comes from that isn't on the command line, or -1 */
	struct buf head; /* and the beginning of it */
	bool terminal, include;
	struct guest_text text;
	char last; /* that was printed */
};

static ssize_t read_some(int fd, char *p, size_t n)
{
	ssize_t got;

	do
		got = read(fd, p, n);
	while (got < 0 && errno == EINTR);
	return got;
}

static ssize_t next_bytes(void *arg, char *p, size_t n)
{
	struct call *c = arg;

	if (c->head.n == 0)
		return read_some(c->fd, p, n);
	n = MIN(n, c->head.n);
	memcpy(p, c->head.p, n);
	buf_drop(&c->head, n);
	return (ssize_t)n;
}

static int fail_read(const char *data, struct fcm_error *err)
{
	return fcm_fail(err, FCM_USAGE, "--data: %s: %s", *data == '@' ? data + 1 : "stdin", strerror(errno));
}

/* Read up to `max` bytes more. */
static int read_head(struct call *c, size_t max, const char *data, struct fcm_error *err)
{
	char piece[16384];

	while (c->head.n < max) {
		ssize_t n = read_some(c->fd, piece, sizeof piece);
		if (n < 0)
			return fail_read(data, err);
		if (n == 0)
			break;
		buf_add(&c->head, piece, (size_t)n);
	}
	return 0;
}

static bool is_json(const struct buf *b)
{
	size_t i = 0;

	while (i < b->n && isspace((unsigned char)b->p[i]))
		i++;
	return i < b->n && (b->p[i] == '{' || b->p[i] == '[');
}

/* JSON goes as a whole. Everything else that the API takes is an archive, which may be of any size. */
static int open_data(const char *data, struct call *c, struct httpc_request *rq, struct fcm_error *err)
{
	c->fd = *data == '@' ? open(data + 1, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
	if (c->fd < 0)
		return fail_read(data, err);
	if (read_head(c, 1, data, err) < 0)
		return -1;
	if (!is_json(&c->head)) {
		rq->source = next_bytes;
		return 0;
	}
	if (read_head(c, JSON_MAX + 1, data, err) < 0)
		return -1;
	if (c->head.n > JSON_MAX)
		return fcm_fail(err, FCM_TOO_LARGE, "--data: JSON of more than %d MiB", JSON_MAX >> 20);
	rq->body = c->head.p;
	rq->body_size = c->head.n;
	return 0;
}

static int set_body(const char *data, struct call *c, struct httpc_request *rq, struct fcm_error *err)
{
	if (data == NULL)
		return 0;
	if (*data == '@' || strcmp(data, "-") == 0)
		return open_data(data, c, rq, err);
	rq->body = data;
	rq->body_size = strlen(data);
	return 0;
}

static int check_path(const char *path, struct fcm_error *err)
{
	const char *p = path;

	while (*p > ' ' && *p < 0x7f && *p != '#')
		p++;
	if (*path == '/' && *p == '\0')
		return 0;
	fcm_fail(err, FCM_USAGE, "'%s' is no path", path);
	return fcm_hint(err, "it begins with /, as /v1/vms, and has %%20 for a space: man 7 fcm-api");
}

static int find_method(const char *word, const char **ret, struct fcm_error *err)
{
	static const char *const methods[] = {"GET", "POST", "PUT", "PATCH", "DELETE"};

	for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
		if (strcasecmp(methods[i], word) == 0) {
			*ret = methods[i];
			return 0;
		}
	fcm_fail(err, FCM_USAGE, "there is no method '%s'", word);
	return fcm_hint(err, "GET, POST, PUT, PATCH or DELETE");
}

/* ---- the answer ---- */

/* Bytes as they come; what a terminal would obey is taken out there. */
static int show(void *arg, const char *p, size_t n)
{
	struct call *c = arg;
	_cleanup_(buf_done) struct buf printable = {0};

	if (c->terminal) {
		guest_text_add(&c->text, p, n, &printable);
		p = printable.p;
		n = printable.n;
	}
	if (n == 0)
		return 0;
	c->last = p[n - 1];
	return fwrite(p, 1, n, stdout) == n && fflush(stdout) == 0 ? 0 : -1;
}

static void show_head(void *arg, const char *line, size_t n)
{
	const struct call *c = arg;

	if (c->include)
		(void)show(arg, line, n);
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	const struct call_options *o = options_;
	_cleanup_(buf_done) struct buf failed = {0};
	struct call c = {
		.fd = -1, .terminal = term_width(STDOUT_FILENO), .include = o->include, .last = '\n'};
	struct httpc_request rq = {.head = show_head, .data = show, .arg = &c};

	if (find_method(cli->argv[0], &rq.method, err) < 0 || check_path(cli->argv[1], err) < 0)
		return -1;
	int r = set_body(o->data, &c, &rq, err) < 0 ? -1 : api_do(cli->api, &rq, cli->argv[1], &failed, err);
	if (o->include)
		(void)show(&c, failed.p, failed.n);
	if (c.terminal && c.last != '\n')
		putchar('\n');
	if (c.fd > STDIN_FILENO)
		close(c.fd);
	buf_done(&c.head);
	return r;
}

const struct command cmd_api = {
	.name = "api",
	.args = "METHOD PATH",
	.summary = "make any request to the daemon",
	.example = "fcm api GET /v1/vms/web",
	.details = "It prints the body of the answer as it comes. man 7 fcm-api has the routes.",
	.min_args = 2,
	.max_args = 2,
	.options = options,
	.fields = call_fields,
	.size = sizeof(struct call_options),
	.run = run,
};
