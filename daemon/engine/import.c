#include "daemon/engine/import.h"

#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/core/kv.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/making.h"
#include "daemon/image/config.h"

enum { IMPORTS_MAX = 4, NAMES_MAX = 64 };

/* The archive's own names count where its user gave none. They are a stranger's. */
static int take_names(struct strv *names, const struct buf *answer, struct fcm_error *err)
{
	struct ref ref;

	if (names->n > 0)
		return 0;
	for (const char *s = NULL; (s = kv_next(answer->p, answer->n, "name", s));) {
		if (names->n == NAMES_MAX || ref_parse(s, "name", &ref, err) < 0 || ref.digest[0])
			return fcm_fail(err, FCM_HOST, "fcm-oci said no image's name");
		strv_add(names, ref_full(&ref).s);
	}
	return 0;
}

static int run_job(struct op *op, struct oci_spec spec, struct buf *ret, struct fcm_error *err)
{
	spec.in_fd = op->import.in_fd;
	spec.progress = making_tell_layer;
	int r = making_run(op, spec, ret, err);
	fcm_closep(&op->import.in_fd); /* who still sends is told so */
	if (r == 0 && op_given_up(op)) /* what came may not be all */
		return fcm_fail(err, FCM_CANCELLED, "import was cancelled");
	return r;
}

int import_unpack(struct op *op, int dir_fd, const char *of, const struct strv *files, int64_t max,
	struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf plan = {0};
	const struct oci_spec spec = {
		.job = "unpack", .plan = &plan, .dir_fd = dir_fd, .layers_fd = -1, .out_fd = -1};

	kv_add(&plan, "of", of);
	for (size_t i = 0; i < files->n; i++)
		kv_add(&plan, "file", files->v[i]);
	kv_addf(&plan, "max", "%lld", (long long)max);
	return run_job(op, spec, NULL, err);
}

static int receive(struct op *op, struct fcm_error *err)
{
	struct image_making *m = &op->making;
	_cleanup_(buf_done) struct buf plan = {0}, answer = {0};
	const struct oci_spec spec = {.job = "import",
		.plan = &plan,
		.dir_fd = m->job_fd,
		.layers_fd = image_layers_fd(),
		.out_fd = m->out_fd};

	kv_add(&plan, "platform", IMAGE_PLATFORM);
	kv_add(&plan, "created", clock_rfc3339(clock_wall()).s);
	if (op->import.config)
		kv_add(&plan, "config", op->import.config);
	if (run_job(op, spec, &answer, err) < 0 || take_names(&op->names, &answer, err) < 0)
		return -1;
	return making_take(&answer, m, err);
}

const struct step step_import = {.name = "import", .run = receive};

int import_run(struct op *op, struct fcm_error *err)
{
	static atomic_uint under_way;
	bool taken = atomic_fetch_add(&under_way, 1) < IMPORTS_MAX;
	int r = taken ? steps_run_all(op, err)
		      : fcm_fail(err, FCM_UNAVAILABLE, "%d imports are in progress", IMPORTS_MAX);

	atomic_fetch_sub(&under_way, 1);
	fcm_closep(&op->import.in_fd);
	return r;
}

int import_open(struct op *op, const char *of, int *ret_fd, struct fcm_error *err)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return fcm_fail_errno(err, "receive %s", of);
	op->what = "import";
	op->import.of = of;
	op->import.in_fd = pair[0];
	*ret_fd = pair[1];
	return 0;
}

static int plan(const char *name, const char *config, struct op *op, struct fcm_error *err)
{
	struct ref_text whole;

	if (name && image_whole_name(name, "name", &whole, err) < 0)
		return -1;
	if (name)
		strv_add(&op->names, whole.s);
	if (config && (op->import.config = image_config_check(config, err)) == NULL)
		return fcm_wrap(err, "config");
	return 0;
}

int engine_import(const char *name, const char *config, struct op **ret, int *ret_fd, struct fcm_error *err)
{
	struct op *op = op_new(&table_import_image, NULL, import_run);

	if (plan(name, config, op, err) < 0 || import_open(op, "an image", ret_fd, err) < 0) {
		op_unref(op);
		return -1;
	}
	*ret = op;
	return 0;
}
