#include "daemon/engine/pull.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "common/core/kv.h"
#include "common/core/log.h"
#include "daemon/engine/engine.h"
#include "daemon/image/make.h"
#include "daemon/oci/job.h"

/* One at a time: a second one of the same image then finds its layers here. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t free;
	bool taken;
} turn = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};

/* Who waits looks each second whether somebody still waits for him. */
static int take_turn(struct op *op, struct fcm_error *err)
{
	struct timespec until;

	pthread_mutex_lock(&turn.lock);
	if (turn.taken)
		op_progress(op, "wait", "begin", 0);
	while (turn.taken && !op_given_up(op)) {
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec++;
		pthread_cond_clockwait(&turn.free, &turn.lock, CLOCK_MONOTONIC, &until);
	}
	bool mine = !turn.taken;
	turn.taken = true;
	pthread_mutex_unlock(&turn.lock);
	return mine ? 0 : fcm_fail(err, FCM_CANCELLED, "pull was cancelled");
}

static void leave_turn(void)
{
	pthread_mutex_lock(&turn.lock);
	turn.taken = false;
	pthread_cond_signal(&turn.free);
	pthread_mutex_unlock(&turn.lock);
}

/* ---- jobs ---- */

/* The uid of the pool's own address, which no VM has. */
static uid_t job_uid(void)
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

static void tell_layer(void *arg, const char *what, const char *id, uint64_t current, uint64_t total)
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

	log_warn("%s '%s': %s", r->op->what, r->op->pull.image, text);
	fj_set_str(line, "event", "note");
	fj_set_str(line, "message", text);
	op_tell(r->op, line);
}

/* `spec` says what is the job's own. */
static int run_job(struct op *op, struct oci_spec spec, struct buf *ret, struct fcm_error *err)
{
	struct running r = {.op = op};

	spec.program = engine()->config->oci;
	spec.uid = job_uid();
	spec.said = tell_note;
	spec.cancelled = must_end;
	spec.arg = &r;
	op_progress(op, spec.job, "begin", 0);
	int rc = oci_run_job(&spec, ret, err);
	if (rc < 0 && r.room.code != FCM_OK)
		*err = r.room;
	return rc;
}

/* What a job that asks a registry is told. */
static void plan_registry(const struct image_pull *rq, struct buf *plan)
{
	const struct fcmd_config *c = engine()->config;

	kv_addf(plan, "pool", "%s/%u", ip_dotted(c->pool.addr).s, c->pool.prefix);
	for (size_t i = 0; i < c->insecure_registries.n; i++)
		kv_add(plan, "insecure", c->insecure_registries.v[i]);
	if (rq->user)
		kv_add(plan, "user", rq->user);
	if (rq->password)
		kv_add(plan, "password", rq->password);
}

/* ---- pull ---- */

/* An entry of registry_mirrors is REGISTRY=URL. */
static void plan_mirrors(const struct ref *ref, struct buf *plan)
{
	const struct strv *l = &engine()->config->registry_mirrors;
	size_t n = strlen(ref->domain);

	for (size_t i = 0; i < l->n; i++)
		if (strncmp(l->v[i], ref->domain, n) == 0 && l->v[i][n] == '=')
			kv_add(plan, "mirror", l->v[i] + n + 1);
}

/* What the job says is a stranger's word. */
static int take_answer(
	const struct buf *answer, struct image_making *m, struct image_id *ret, struct fcm_error *err)
{
	const char *id = kv_get(answer->p, answer->n, "id");

	if (id == NULL || !ref_digest_valid(id, false))
		return fcm_fail(err, FCM_HOST, "fcm-oci said no image's id");
	(void)fcm_copy(ret->s, sizeof ret->s, id);
	for (const char *s = NULL; (s = kv_next(answer->p, answer->n, "layer", s));) {
		if (!ref_digest_valid(s, false) || m->layers.n == OCI_LAYERS_MAX)
			return fcm_fail(err, FCM_HOST, "fcm-oci said no layer's digest");
		strv_add(&m->layers, s);
	}
	return 0;
}

static int fetch(struct op *op, const struct ref *ref, struct image_making *m, struct image_id *ret,
	struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf plan = {0}, answer = {0};
	const struct oci_spec spec = {.job = "pull",
		.plan = &plan,
		.dir_fd = m->job_fd,
		.layers_fd = image_layers_fd(),
		.in_fd = -1,
		.out_fd = -1,
		.progress = tell_layer};

	kv_add(&plan, "ref", ref_full(ref).s);
	kv_add(&plan, "platform", IMAGE_PLATFORM);
	plan_mirrors(ref, &plan);
	plan_registry(&op->pull, &plan);
	if (run_job(op, spec, &answer, err) < 0 || take_answer(&answer, m, ret, err) < 0)
		return -1;
	return image_make_layers(m, err);
}

static int merge(struct op *op, struct image_making *m, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf plan = {0};
	const struct oci_spec spec = {.job = "merge",
		.plan = &plan,
		.dir_fd = -1,
		.layers_fd = image_layers_fd(),
		.in_fd = -1,
		.out_fd = m->out_fd};

	for (size_t i = 0; i < m->layers.n; i++)
		kv_add(&plan, "layer", m->layers.v[i]);
	return run_job(op, spec, NULL, err);
}

static int pull(struct op *op, const struct ref *ref, struct fcm_error *err)
{
	struct image_making m;
	struct image_id id;

	if (engine_has_room(err) < 0 || image_make_begin(job_uid(), &m, err) < 0)
		return -1;
	int r = fetch(op, ref, &m, &id, err);
	if (r == 0)
		r = merge(op, &m, err);
	if (r == 0)
		r = image_make_commit(&m, &id, ref_full(ref).s, &op->image, err);
	image_make_done(&m);
	return r;
}

static int pull_run(struct op *op, struct fcm_error *err)
{
	struct fcm_error ignored;
	struct ref ref;

	if (ref_parse(op->pull.image, "image", &ref, err) < 0 || take_turn(op, err) < 0)
		return -1;
	int r = pull(op, &ref, err);
	leave_turn();
	if (r < 0 && image_layers_sweep(&ignored) < 0)
		log_error(LOG_LEVEL_WARN, NULL, &ignored);
	return r;
}

/* ---- check ---- */

static int check_run(struct op *op, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf plan = {0};
	const struct oci_spec spec = {
		.job = "check", .plan = &plan, .dir_fd = -1, .layers_fd = -1, .in_fd = -1, .out_fd = -1};

	kv_add(&plan, "registry", op->pull.image);
	plan_registry(&op->pull, &plan);
	return run_job(op, spec, NULL, err);
}

/* ---- the operations ---- */

static struct op *new_op(
	const char *what, int (*run)(struct op *op, struct fcm_error *err), struct image_pull *rq)
{
	struct op *op = op_new(NULL, NULL, run);

	op->what = what;
	op->pull = *rq;
	*rq = (struct image_pull){0};
	return op;
}

int engine_pull(struct image_pull *rq, struct op **ret, struct fcm_error *err)
{
	struct ref ref;

	if (ref_parse(rq->image, "image", &ref, err) < 0)
		return -1;
	if (strcmp(ref.domain, REF_LOCAL) == 0)
		return fcm_fail_field(err, FCM_INVALID, "image", "image: '%s' is one that was made here",
			ref_short(&ref).s);
	*ret = new_op("pull", pull_run, rq);
	return 0;
}

struct op *engine_check_registry(struct image_pull *rq)
{
	return new_op("check", check_run, rq);
}
