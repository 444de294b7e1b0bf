#include "daemon/engine/pull.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "common/core/kv.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/making.h"

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

static int pull(struct op *op, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf plan = {0}, answer = {0};
	struct image_making *m = &op->making;
	struct ref ref;
	const struct oci_spec spec = {.job = "pull",
		.plan = &plan,
		.dir_fd = m->job_fd,
		.layers_fd = image_layers_fd(),
		.in_fd = -1,
		.out_fd = -1,
		.progress = making_tell_layer};

	if (ref_parse(op->pull.image, "image", &ref, err) < 0)
		return -1;
	kv_add(&plan, "ref", ref_full(&ref).s);
	kv_add(&plan, "platform", IMAGE_PLATFORM);
	plan_mirrors(&ref, &plan);
	plan_registry(&op->pull, &plan);
	return making_run(op, spec, &answer, err) < 0 ? -1 : making_take(&answer, m, err);
}

const struct step step_pull = {.name = "pull", .run = pull};

static int pull_run(struct op *op, struct fcm_error *err)
{
	if (take_turn(op, err) < 0)
		return -1;
	int r = steps_run_all(op, err);
	leave_turn();
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
	return making_run(op, spec, NULL, err);
}

/* ---- the operations ---- */

static struct op *new_op(
	const struct op_table *table, int (*run)(struct op *op, struct fcm_error *err), struct image_pull *rq)
{
	struct op *op = op_new(table, NULL, run);

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
	*ret = new_op(&table_pull, pull_run, rq);
	strv_add(&(*ret)->names, ref_full(&ref).s);
	return 0;
}

struct op *engine_check_registry(struct image_pull *rq)
{
	struct op *op = new_op(NULL, check_run, rq);

	op->what = "check";
	return op;
}
