/*
 * An image, a kernel or a snapshot as the request's body. Its bytes go into the socket of an operation that begins at once; how
 * that ends is the answer.
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "daemon/api/api.h"
#include "daemon/engine/import.h"
#include "daemon/engine/kernelimport.h"
#include "daemon/engine/snapimport.h"

struct receiving {
	struct op *op; /* NULL when it is being answered */
	int fd;
	field_json *(*result)(const struct op *op);
};

/* It takes no more, so it is over, or about to be. */
static int fail_over(struct receiving *r, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf lines = {0};
	struct pollfd p = {.fd = op_wake_fd(r->op), .events = POLLIN};

	while (!op_poll(r->op, &lines))
		poll(&p, 1, -1);
	if (r->op->rc == 0)
		return fcm_fail(err, FCM_INVALID, "there is more behind its end");
	*err = r->op->err;
	return -1;
}

static int feed(void *arg, const void *data, size_t n, struct fcm_error *err)
{
	struct receiving *r = arg;

	for (const char *p = data; n > 0;) {
		ssize_t k = send(r->fd, p, n, MSG_NOSIGNAL);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return fail_over(r, err);
		p += k;
		n -= (size_t)k;
	}
	return 0;
}

static field_json *imported(const struct op *op)
{
	field_json *o = api_image_result(op), *names = fj_array();

	for (size_t i = 0; i < op->names.n; i++)
		fj_append(names, fj_str(op->names.v[i]));
	fj_set(o, "added", names);
	return o;
}

static int finish(void *arg, struct request *rq, struct fcm_error *err)
{
	struct receiving *r = arg;

	fcm_closep(&r->fd);
	return api_answer(rq, STEAL(r->op), 201, r->result, err);
}

/* The end of its bytes means that they are whole, unless it was given up before. */
static void done(void *arg)
{
	struct receiving *r = arg;

	if (r->op)
		op_give_up(r->op);
	fcm_closep(&r->fd);
	free(r);
}

static int begin(struct request *rq, struct op *op, int fd, field_json *(*result)(const struct op *op),
	struct fcm_error *err)
{
	if (api_start(rq, op, err) < 0) {
		close(fd);
		return -1;
	}
	struct receiving *r = xalloc(sizeof *r);
	*r = (struct receiving){.op = op, .fd = fd, .result = result};
	return http_receive(rq, feed, finish, done, r);
}

int api_images_import(struct request *rq, struct fcm_error *err)
{
	struct op *op;
	int fd;

	if (engine_import(http_query(rq, "name"), http_query(rq, "config"), &op, &fd, err) < 0)
		return -1;
	return begin(rq, op, fd, imported, err);
}

int api_kernel_put(struct request *rq, struct fcm_error *err)
{
	struct op *op;
	int fd;

	if (engine_kernel_import(http_param(rq, "name"), &op, &fd, err) < 0)
		return -1;
	return begin(rq, op, fd, api_image_result, err);
}

static field_json *snapshot_imported(const struct op *op)
{
	return api_snapshot_json(&op->hold.snapshot);
}

int api_snapshots_import(struct request *rq, struct fcm_error *err)
{
	struct op *op;
	int fd;

	if (engine_snapshot_import(http_query(rq, "name"), &op, &fd, err) < 0)
		return -1;
	return begin(rq, op, fd, snapshot_imported, err);
}
