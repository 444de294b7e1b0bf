#include "daemon/engine/making.h"

#include <pthread.h>

#include "common/core/kv.h"
#include "common/core/log.h"
#include "daemon/engine/engine.h"

/* The uid of the pool's own address, which no VM has. */
uid_t making_uid(void)
{
	return engine_uid(engine()->ipam.pool.addr);
}

/* A job under way: it ends when nobody waits for it, and when it takes the room that is left for running VMs. */
struct running {
	struct op *op;
	struct fcm_error room; /* FCM_OK: there is some */
};

static bool must_end(void *arg)
{
	struct running *r = arg;

	return op_given_up(r->op) || engine_has_room(&r->room) < 0;
}

void making_tell_layer(void *arg, const char *what, const char *id, uint64_t current, uint64_t total)
{
	struct running *r = arg;
	field_json *line = fj_object();

	fj_set_str(line, "event", "layer");
	fj_set_str(line, "id", id);
	fj_set_str(line, "status", what);
	fj_set_int(line, "current", (int64_t)current);
	fj_set_int(line, "total", (int64_t)total);
	op_tell(r->op, line);
}

static void tell_note(void *arg, const char *text)
{
	struct running *r = arg;
	field_json *line = fj_object();

	log_warn("%s '%s': %s", r->op->what, op_subject(r->op), text);
	fj_set_str(line, "event", "note");
	fj_set_str(line, "message", text);
	op_tell(r->op, line);
}

int making_run(struct op *op, struct oci_spec spec, struct buf *ret, struct fcm_error *err)
{
	struct running r = {.op = op};

	spec.program = engine()->config->oci;
	spec.uid = making_uid();
	spec.said = tell_note;
	spec.cancelled = must_end;
	spec.arg = &r;
	int rc = oci_run_job(&spec, ret, err);
	if (rc < 0 && r.room.code != FCM_OK)
		*err = r.room;
	return rc;
}

/* What the job says is a stranger's word. */
int making_take(const struct buf *answer, struct image_making *m, struct fcm_error *err)
{
	const char *id = kv_get(answer->p, answer->n, "id");

	if (id == NULL || !ref_digest_valid(id, false))
		return fcm_fail(err, FCM_HOST, "fcm-oci said no image's id");
	(void)fcm_copy(m->id.s, sizeof m->id.s, id);
	for (const char *s = NULL; (s = kv_next(answer->p, answer->n, "layer", s));) {
		if (!ref_digest_valid(s, false) || m->layers.n == OCI_LAYERS_MAX)
			return fcm_fail(err, FCM_HOST, "fcm-oci said no layer's digest");
		strv_add(&m->layers, s);
	}
	return image_make_layers(m, err);
}

/* ---- making: its directory, which nobody sees yet ---- */

static int begin(struct op *op, struct fcm_error *err)
{
	return engine_has_room(err) < 0 ? -1 : image_make_begin(making_uid(), &op->making, err);
}

static int drop(struct op *op, struct fcm_error *err)
{
	image_make_done(&op->making);
	return image_layers_sweep(err);
}

const struct step step_making = {.name = "making", .run = begin, .undo = drop};

/* ---- merge: the file system of the layers ---- */

/* One at a time, for the memory that it takes. What came as a file system has no layers. */
static int merge(struct op *op, struct fcm_error *err)
{
	static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
	_cleanup_(buf_done) struct buf plan = {0};
	const struct strv *layers = &op->making.layers;
	const struct oci_spec spec = {.job = "merge",
		.plan = &plan,
		.dir_fd = -1,
		.layers_fd = image_layers_fd(),
		.in_fd = -1,
		.out_fd = op->making.out_fd};

	if (layers->n == 0)
		return 0;
	for (size_t i = 0; i < layers->n; i++)
		kv_add(&plan, "layer", layers->v[i]);
	pthread_mutex_lock(&one);
	int r = making_run(op, spec, NULL, err);
	pthread_mutex_unlock(&one);
	return r;
}

const struct step step_merge = {.name = "merge", .run = merge};

/* ---- keep: it is an image ---- */

/* There is no way back from here: a name of another image may have become this one's. */
static int keep(struct op *op, struct fcm_error *err)
{
	if (image_make_commit(&op->making, &op->names, &op->image, err) < 0)
		return -1;
	image_make_done(&op->making);
	return 0;
}

const struct step step_keep = {.name = "keep", .run = keep};
