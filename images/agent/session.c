#include "images/agent/session.h"

#include <errno.h>
#include <string.h>

#include "common/core/clock.h"
#include "common/core/kv.h"
#include "images/agent/copy.h"
#include "images/agent/files.h"
#include "images/agent/identity.h"
#include "images/agent/modules.h"
#include "images/agent/net.h"
#include "images/agent/start.h"
#include "images/agent/stats.h"
#include "images/agent/wall.h"
#include "images/agent/yield.h"

enum { NONCE_MAX = 64, ECHO_MAX = 1024 };

/* One request: its stream, its kv list and raw bytes. */
struct request {
	uint32_t stream;
	const void *p;
	size_t n;
};

static int op_mount(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	const char *image = kv_get(rq->p, rq->n, "image"), *disk = kv_get(rq->p, rq->n, "disk");

	if (image == NULL || disk == NULL)
		return fcm_fail(err, FCM_INVALID, "image and disk are needed");
	if (!a->root.mounted) {
		if (mount_guest(&a->root, image, disk, err) < 0)
			return -1;
		freeze_init(&a->freezer, a->root.cgroup_fd);
	}
	kv_add(results, "sshd", mount_sshd());
	return 0;
}

static int op_volume(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	bool is_new;

	if (volume_mount(&a->volumes, rq->p, rq->n, &is_new, err) < 0)
		return -1;
	if (is_new)
		kv_add(results, "new", "1");
	return 0;
}

static int op_fill(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	(void)results;
	return volume_fill(&a->volumes, &a->execs, rq->stream, rq->p, rq->n, err);
}

static int op_net(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	struct guest_net net;

	(void)results;
	return net_parse(rq->p, rq->n, &net, err) < 0 ? -1 : net_apply(&a->net, &net, err);
}

static int op_file(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	(void)a, (void)results;
	return files_write(rq->p, rq->n, err);
}

static int op_clock(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	int64_t now_ns, off_ms;

	if (wall_parse(rq->p, rq->n, clock_ms(), &now_ns, err) < 0 ||
		wall_set(now_ns, a->started, &off_ms, err) < 0)
		return -1;
	kv_addf(results, "off_ms", "%lld", (long long)off_ms);
	return 0;
}

/* Programs that run already would be PID 1's children and not ours, so nobody would say how they end. */
static int start_init(struct agent *a, const struct strv *env, struct fcm_error *err)
{
	if (a->execs.count)
		return fcm_fail(err, FCM_WRONG_STATE, "start: not while a program runs");
	if (start_env_write(env, err) < 0 || yield_pid1(a->argv0, err) < 0)
		return -1;
	a->yielded = true;
	return 0;
}

static int op_start(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv env = {0};

	(void)results;
	if (a->started)
		return 0;
	if (start_env_parse(rq->p, rq->n, &env, err) < 0)
		return -1;
	if ((yield_wanted() ? start_init(a, &env, err) : start_rc(&env, err)) < 0)
		return -1;
	a->started = true;
	return 0;
}

static int op_ping(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	const char *echo = kv_get(rq->p, rq->n, "echo");

	if (echo && strlen(echo) > ECHO_MAX)
		return fcm_fail_field(err, FCM_INVALID, "echo", "echo: longer than %d bytes", ECHO_MAX);
	kv_add(results, "echo", echo ? echo : "");
	kv_addf(results, "uptime_ms", "%lld", (long long)clock_ms());
	kv_add(results, "boot_id", a->boot_id);
	return 0;
}

static int op_stats(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	(void)a, (void)rq;
	return stats_report(results, err);
}

/* Only checks: session_power() runs once the answer is queued, so that the answer comes before the event. */
static int op_power(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	enum power_intent intent;

	(void)a, (void)results;
	if (!power_intent_parse(kv_get(rq->p, rq->n, "intent"), &intent))
		return fcm_fail_field(err, FCM_INVALID, "intent", "intent: poweroff or reboot");
	return 0;
}

static void after_power(struct agent *a, const struct request *rq)
{
	enum power_intent intent;

	if (power_intent_parse(kv_get(rq->p, rq->n, "intent"), &intent))
		session_power(
			a, intent, kv_i64(rq->p, rq->n, "grace_ms", 0, POWER_GRACE_MAX_MS, POWER_GRACE_MS));
}

static int op_exec(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	(void)results;
	return exec_start(&a->execs, rq->stream, rq->p, rq->n, err);
}

static int op_get(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	(void)results;
	return copy_get(&a->execs, rq->stream, rq->p, rq->n, err);
}

static int op_put(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	(void)results;
	return copy_put(&a->execs, rq->stream, rq->p, rq->n, err);
}

static int op_probe(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	(void)results;
	return exec_probe(&a->execs, rq->stream, rq->p, rq->n, err);
}

static int op_main(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	(void)results;
	if (!a->started)
		return fcm_fail(err, FCM_WRONG_STATE, "main: not before start");
	return mainproc_start(&a->main, rq->p, rq->n, err);
}

static int op_kill(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	(void)results;
	return mainproc_signal(&a->main, rq->p, rq->n, err);
}

static int op_output(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	(void)results;
	return mainproc_output(&a->main, rq->stream, rq->p, rq->n, err);
}

static int op_attach(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	(void)results;
	return exec_attach(&a->execs, rq->stream, rq->p, rq->n, err);
}

static int op_signal(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	(void)results;
	return exec_signal(&a->execs, rq->p, rq->n, err);
}

static int op_resize(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	(void)results;
	return exec_resize(&a->execs, rq->p, rq->n, err);
}

static int op_close(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	(void)results;
	return exec_close(&a->execs, rq->p, rq->n, err);
}

/* The modules now, so that each clone has them already, and the guest is frozen for no longer than it must be. */
static int op_freeze(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	(void)results;
	if (!a->started)
		return fcm_fail(err, FCM_WRONG_STATE, "freeze: not before start");
	if (a->power.phase != POWER_UP)
		return fcm_fail(err, FCM_WRONG_STATE, "freeze: the machine ends");
	modules_load(a->modules, MODULES_DIAG);
	return freeze_begin(&a->freezer, rq->stream, rq->p, rq->n, err);
}

static int op_thaw(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	(void)rq, (void)err;
	if (freeze_thaw(&a->freezer, &a->channel, "the host has ended it"))
		kv_add(results, "thawed", "1");
	return 0;
}

static int op_identity(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	struct identity id;

	if (identity_parse(rq->p, rq->n, &id, err) < 0)
		return -1;
	modules_load(a->modules, MODULES_DIAG);
	return identity_apply(&id, &a->net, results, err);
}

static int op_hooks(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err)
{
	int rc = exec_hooks(&a->execs, rq->stream, rq->p, rq->n, err);

	if (rc == EXEC_NO_HOOKS) {
		kv_add(results, "exit", "0");
		channel_send(&a->channel, rq->stream, FRAME_RES, results);
	}
	return rc < 0 ? -1 : 0;
}

struct op {
	const char *name;
	bool needs_root;
	bool starts; /* a program: not while the machine ends, or is frozen */
	bool later; /* answered, when it goes well, when there is something to say: at the end of the program */
	int (*run)(struct agent *a, const struct request *rq, struct buf *results, struct fcm_error *err);
	void (*after)(struct agent *a, const struct request *rq); /* once the answer is queued; or NULL */
};

static const struct op ops[] = {
	{"mount", false, false, false, op_mount, NULL},
	{"volume", true, false, false, op_volume, NULL},
	{"fill", true, true, true, op_fill, NULL},
	{"net", true, false, false, op_net, NULL},
	{"file", true, false, false, op_file, NULL},
	{"clock", false, false, false, op_clock, NULL},
	{"start", true, false, false, op_start, NULL},
	{"ping", false, false, false, op_ping, NULL},
	{"stats", true, false, false, op_stats, NULL},
	{"power", false, false, false, op_power, after_power},
	{"main", true, true, false, op_main, NULL},
	{"kill", true, false, false, op_kill, NULL},
	{"output", true, false, true, op_output, NULL},
	{"attach", true, false, true, op_attach, NULL},
	{"exec", true, true, true, op_exec, NULL},
	{"get", true, true, true, op_get, NULL},
	{"put", true, true, true, op_put, NULL},
	{"probe", true, true, true, op_probe, NULL},
	{"signal", true, false, false, op_signal, NULL},
	{"resize", true, false, false, op_resize, NULL},
	{"close", true, false, false, op_close, NULL},
	{"freeze", true, false, true, op_freeze, NULL},
	{"thaw", true, false, false, op_thaw, NULL},
	{"identity", true, false, false, op_identity, NULL},
	{"hooks", true, true, true, op_hooks, NULL},
};

static int find_op(
	const struct agent *a, const struct request *rq, const struct op **ret, struct fcm_error *err)
{
	const char *name = kv_get(rq->p, rq->n, "op");

	for (size_t i = 0; name && i < ARRAY_SIZE(ops); i++) {
		if (strcmp(ops[i].name, name) != 0)
			continue;
		if (ops[i].needs_root && !a->root.mounted)
			return fcm_fail(err, FCM_WRONG_STATE, "%s: not before mount", name);
		if (ops[i].starts && a->power.phase != POWER_UP)
			return fcm_fail(err, FCM_WRONG_STATE, "%s: the machine ends", name);
		if (ops[i].starts && freeze_is_on(&a->freezer))
			return fcm_fail(err, FCM_WRONG_STATE, "%s: the machine is frozen", name);
		*ret = &ops[i];
		return 0;
	}
	return fcm_fail_field(err, FCM_INVALID, "op", "op: '%.32s' is not known", name ? name : "");
}

void session_error(struct buf *answer, const struct fcm_error *err)
{
	buf_drop(answer, answer->n);
	kv_add(answer, "error", err->msg);
	if (err->sys)
		kv_addf(answer, "errno", "%d", err->sys);
}

static void serve_request(struct agent *a, const struct frame *f)
{
	const struct request rq = {.stream = f->stream, .p = f->payload, .n = f->len};
	_cleanup_(buf_done) struct buf answer = {0};
	const struct op *op = NULL;
	struct fcm_error err = {0};

	kv_add(&answer, "ok", "1");
	if (find_op(a, &rq, &op, &err) < 0 || op->run(a, &rq, &answer, &err) < 0)
		session_error(&answer, &err);
	else if (op->later)
		return;
	channel_send(&a->channel, f->stream, FRAME_RES, &answer);
	if (err.code == FCM_OK && op->after)
		op->after(a, &rq);
}

static void send_power_event(struct agent *a, enum power_intent intent)
{
	_cleanup_(buf_done) struct buf event = {0};

	kv_add(&event, "event", "power");
	kv_add(&event, "intent", power_intent_name(intent));
	channel_send(&a->channel, 0, FRAME_EVENT, &event);
}

static void forget_host(struct agent *a)
{
	exec_close_all(&a->execs);
	mainproc_forget_host(&a->main);
	freeze_forget_host(&a->freezer);
}

/* A new session. A host that comes while the machine is ending hears why. */
static void serve_hello(struct agent *a, const struct frame *f)
{
	const char *magic = kv_get(f->payload, f->len, "magic"), *nonce = kv_get(f->payload, f->len, "nonce");
	_cleanup_(buf_done) struct buf hello = {0};

	if (f->stream != 0 || magic == NULL || strcmp(magic, FRAME_MAGIC) != 0 || nonce == NULL ||
		strlen(nonce) > NONCE_MAX)
		return;
	forget_host(a);
	channel_reset(&a->channel);
	kv_add(&hello, "magic", FRAME_MAGIC);
	kv_addf(&hello, "version", "%d", FRAME_VERSION);
	kv_add(&hello, "nonce", nonce);
	kv_add(&hello, "boot_id", a->boot_id);
	channel_send(&a->channel, 0, FRAME_HELLO, &hello);
	if (a->power.phase != POWER_UP)
		send_power_event(a, a->power.intent);
}

void session_serve(struct agent *a)
{
	struct frame f;

	if (channel_lost(&a->channel))
		forget_host(a);
	while (channel_next(&a->channel, &f)) {
		switch ((enum frame_type)f.type) {
		case FRAME_HELLO:
			serve_hello(a, &f);
			break;
		case FRAME_REQ:
			serve_request(a, &f);
			break;
		case FRAME_DATA:
		case FRAME_CREDIT:
		case FRAME_END:
			exec_take(&a->execs, &f, &a->channel);
			break;
		case FRAME_RES:
		case FRAME_EVENT:
			break;
		}
		channel_done_frame(&a->channel, &f);
	}
}

/* All but the main process, which has ended or has had its time. */
static void end_all(struct agent *a, enum power_intent intent, int64_t grace_ms)
{
	bool first = a->power.phase <= POWER_MAIN;

	power_begin(&a->power, intent, grace_ms);
	if (first && a->yielded && !a->init_ended)
		yield_ask(intent);
}

void session_power(struct agent *a, enum power_intent intent, int64_t grace_ms)
{
	bool first = a->power.phase == POWER_UP;

	freeze_thaw(&a->freezer, &a->channel, "the machine ends");
	if (first)
		send_power_event(a, intent);
	exec_hang_up(&a->execs);
	if (first && mainproc_stop(&a->main))
		power_hold(&a->power, intent, grace_ms);
	else if (a->power.phase == POWER_MAIN)
		a->power.deadline = MIN(a->power.deadline, clock_in(grace_ms));
	else
		end_all(a, intent, grace_ms);
}

void session_freeze(struct agent *a)
{
	freeze_tick(&a->freezer, &a->channel);
	if (freeze_is_on(&a->freezer))
		exec_hold(&a->execs);
}

void session_main(struct agent *a)
{
	bool over = mainproc_tick(&a->main, &a->channel);

	if (over && a->power.phase == POWER_UP)
		session_power(a, a->main.reboot ? POWER_REBOOT : POWER_OFF, POWER_GRACE_MS);
	if (a->power.phase != POWER_MAIN || (mainproc_runs(&a->main) && clock_left(a->power.deadline) > 0))
		return;
	mainproc_kill(&a->main);
	end_all(a, a->power.intent, MAX(clock_left(a->power.deadline), POWER_KILL_MS));
}
