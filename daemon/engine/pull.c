#include "daemon/engine/pull.h"

#include <pthread.h>
#include <string.h>

#include "common/core/kv.h"
#include "common/core/log.h"
#include "daemon/engine/engine.h"
#include "daemon/image/make.h"
#include "daemon/oci/job.h"

#define PLATFORM "linux/amd64"

/* One at a time: a second one of the same image then finds its layers here. */
static pthread_mutex_t pulling = PTHREAD_MUTEX_INITIALIZER;

/* The uid of the pool's own address, which no VM has. */
static uid_t job_uid(void)
{
	return engine_uid(engine()->ipam.pool.addr);
}

static void plan_pull(const struct image_pull *rq, const struct ref *ref, struct buf *ret)
{
	const struct fcmd_config *c = engine()->config;

	kv_add(ret, "ref", ref_full(ref).s);
	kv_add(ret, "platform", PLATFORM);
	kv_addf(ret, "pool", "%s/%u", ip_dotted(c->pool.addr).s, c->pool.prefix);
	for (size_t i = 0; i < c->insecure_registries.n; i++)
		kv_add(ret, "insecure", c->insecure_registries.v[i]);
	if (rq->user)
		kv_add(ret, "user", rq->user);
	if (rq->password)
		kv_add(ret, "password", rq->password);
}

/* A job under way: it ends when its client does, and when it takes the room that is left for running VMs. */
struct running {
	const struct pull_watch *watch;
	struct fcm_error room; /* FCM_OK: there is some */
};

static bool must_end(void *arg)
{
	struct running *r = arg;

	return (r->watch->cancelled && r->watch->cancelled(r->watch->arg)) || engine_has_room(&r->room) < 0;
}

static int run_job(const char *job, const struct buf *plan, int dir_fd, int out_fd,
	const struct pull_watch *watch, struct buf *ret, struct fcm_error *err)
{
	struct running r = {.watch = watch};
	const struct oci_spec spec = {
		.program = engine()->config->oci,
		.uid = job_uid(),
		.job = job,
		.plan = plan,
		.dir_fd = dir_fd,
		.layers_fd = image_layers_fd(),
		.in_fd = -1,
		.out_fd = out_fd,
		.cancelled = must_end,
		.arg = &r,
	};

	int rc = oci_run_job(&spec, ret, err);
	if (rc < 0 && r.room.code != FCM_OK)
		*err = r.room;
	return rc;
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

static int fetch(const struct image_pull *rq, const struct ref *ref, struct image_making *m,
	const struct pull_watch *watch, struct image_id *ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf plan = {0}, answer = {0};

	plan_pull(rq, ref, &plan);
	if (run_job("pull", &plan, m->job_fd, -1, watch, &answer, err) < 0 ||
		take_answer(&answer, m, ret, err) < 0)
		return -1;
	return image_make_layers(m, err);
}

static int merge(struct image_making *m, const struct pull_watch *watch, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf plan = {0};

	for (size_t i = 0; i < m->layers.n; i++)
		kv_add(&plan, "layer", m->layers.v[i]);
	return run_job("merge", &plan, -1, m->out_fd, watch, NULL, err);
}

static int pull(const struct image_pull *rq, const struct ref *ref, const struct pull_watch *watch,
	struct image_info *ret, struct fcm_error *err)
{
	struct image_making m;
	struct image_id id;

	if (engine_has_room(err) < 0 || image_make_begin(job_uid(), &m, err) < 0)
		return -1;
	int r = fetch(rq, ref, &m, watch, &id, err);
	if (r == 0)
		r = merge(&m, watch, err);
	if (r == 0)
		r = image_make_commit(&m, &id, ref_full(ref).s, ret, err);
	image_make_done(&m);
	return r;
}

int engine_pull(const struct image_pull *rq, const struct pull_watch *watch, struct image_info *ret,
	struct fcm_error *err)
{
	struct fcm_error ignored;
	struct ref ref;

	if (ref_parse(rq->image, "image", &ref, err) < 0)
		return -1;
	if (strcmp(ref.domain, REF_LOCAL) == 0)
		return fcm_fail_field(err, FCM_INVALID, "image", "image: '%s' is one that was made here",
			ref_short(&ref).s);
	pthread_mutex_lock(&pulling);
	int r = pull(rq, &ref, watch, ret, err);
	pthread_mutex_unlock(&pulling);
	if (r < 0 && image_layers_sweep(&ignored) < 0)
		log_error(LOG_LEVEL_WARN, NULL, &ignored);
	return r;
}
