#include "daemon/engine/build.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "common/core/log.h"
#include "common/crypt.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/making.h"
#include "daemon/engine/script.h"
#include "daemon/image/config.h"
#include "daemon/image/store.h"

enum {
	TURN_MS = 250,	   /* between two looks whether anybody still waits */
	CLAIM_MS = 120000, /* for an operation on the VM that somebody else began */
};

/* What isn't the image's: what the agent writes into each guest (docs/AGENT.md), what must not be the same in two machines, and
 * what is mounted over. A name that the user of a build wants to change there he can't, as with docker. */
static const char *const excluded[] = {
	"dev",
	"proc",
	"sys",
	"run/fcm",
	"etc/fcm/env",
	"etc/hostname",
	"etc/hosts",
	"etc/resolv.conf",
	"etc/machine-id",
	"var/lib/dbus/machine-id",
	"var/lib/systemd/random-seed",
	"var/lib/systemd/credential.secret",
	"etc/ssh/ssh_host_*",
	"etc/dropbear/dropbear_*_host_key",
};

/* ---- other operations, as part of this one ---- */

/* Wait for one that was started, with its progress as ours. FCM_CANCELLED: it goes on. */
static int await(struct op *op, struct op *part, struct fcm_error *err)
{
	for (;;) {
		_cleanup_(buf_done) struct buf lines = {0};
		struct pollfd p = {.fd = op_wake_fd(part), .events = POLLIN};
		bool over = op_poll(part, &lines);
		op_tell_lines(op, &lines);
		if (over)
			break;
		if (op_given_up(op))
			return fcm_fail(err, FCM_CANCELLED, "the build was cancelled");
		poll(&p, 1, TURN_MS);
	}
	if (part->rc < 0)
		*err = part->err;
	return part->rc;
}

/* ---- the VM ---- */

static struct op *new_vm(const struct image_build *rq)
{
	struct vm_create body = {.spec = rq->spec};
	uint32_t r;

	if (getrandom(&r, sizeof r, 0) != sizeof r) /* can't fail: getrandom(2), up to 256 bytes */
		abort();
	(void)fcm_format(body.spec.name, sizeof body.spec.name, "build-%06x", r & 0xffffff);
	body.spec.restart = RESTART_NO;
	body.spec.hold = true; /* what the image runs isn't wanted */
	body.spec.health.disable = true;
	struct op *op = engine_create(&body);
	op->vm->view.throwaway = true;
	return op;
}

static void destroy(struct vm *vm)
{
	struct op *op = engine_destroy(vm, true);

	op_run(op);
	if (op->rc < 0 && op->err.code != FCM_NOT_FOUND)
		log_error(LOG_LEVEL_WARN, vm->id.s, &op->err);
	op_unref(op);
}

/* A create that nobody waits for any more: a destroy that waits for its turn ends what it waits for. It may not have begun. */
static void give_up(struct op *create)
{
	_cleanup_(buf_done) struct buf ignored = {0};
	struct pollfd p = {.fd = op_wake_fd(create), .events = POLLIN};

	while (!op_poll(create, &ignored)) {
		if (registry_listed(create->vm))
			destroy(create->vm);
		poll(&p, 1, TURN_MS);
	}
}

static int create_vm(struct op *op, struct vm **ret, struct fcm_error *err)
{
	struct op *create = new_vm(&op->build);

	*ret = vm_ref(create->vm);
	int r = op_start(create, err);
	if (r == 0) {
		r = await(op, create, err);
		if (r < 0)
			give_up(create);
	}
	op_unref(create);
	return r;
}

static int stop_vm(struct op *op, struct vm *vm, struct fcm_error *err)
{
	struct op *stop = engine_stop_vm(vm, engine()->config->stop_seconds * 1000ll);

	int r = op_start(stop, err) < 0 ? -1 : await(op, stop, err);
	if (r == 0 && stop->forced)
		r = fcm_fail(err, FCM_GUEST,
			"the VM didn't end by itself within %u s, so what it wrote may not be whole",
			engine()->config->stop_seconds);
	op_unref(stop);
	return r;
}

/* ---- pack: what the script changed becomes a layer ---- */

static int pack_disk(struct op *op, char ret[65], struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf plan = {0}, answer = {0};
	auto_close int disk = openat(op->maker->dirfd, "rootfs.img", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	const struct oci_spec spec = {.job = "pack",
		.plan = &plan,
		.dir_fd = op->making.job_fd,
		.layers_fd = image_layers_fd(),
		.in_fd = disk,
		.out_fd = -1,
		.progress = making_tell_layer};

	if (disk < 0)
		return fcm_fail_errno(err, "open the VM's disk");
	for (size_t i = 0; i < ARRAY_SIZE(excluded); i++)
		kv_add(&plan, "exclude", excluded[i]);
	/* the file that guest_put_keys() writes; the other one is the user's */
	kv_add(&plan, "exclude",
		strcmp(op->maker->sshd, "dropbear") == 0 ? "root/.ssh/authorized_keys"
							 : "root/.ssh/authorized_keys2");
	if (making_run(op, spec, &answer, err) < 0)
		return -1;
	const char *layer = kv_get(answer.p, answer.n, "layer");
	if (layer == NULL || !ref_digest_valid(layer, false))
		return fcm_fail(err, FCM_HOST, "fcm-oci said no layer's digest");
	memcpy(ret, layer, 65);
	return 0;
}

/* The config of the image below, with one step more; its digest is the new image's id. */
static int write_config(const struct vm *vm, struct image_making *m, const char *layer, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf below = {0};
	struct crypt_sha256 *h;

	if (image_config_text(&vm->view.image_id, &below, err) < 0)
		return -1;
	auto_free char *by = xprintf("fcm build --from %s", vm->view.spec.image);
	auto_free char *text = image_config_extend(below.p, below.n, layer, by, clock_wall(), err);
	if (text == NULL)
		return -1;
	h = crypt_sha256_new();
	crypt_sha256_add(h, text, strlen(text));
	crypt_sha256_hex(h, m->id.s);
	return file_write_atomic(m->job_fd, "config.json", 0644, text, strlen(text), err);
}

static int pack(struct op *op, struct fcm_error *err)
{
	struct image_making *m = &op->making;
	const struct vm *vm = op->maker;
	char layer[65];

	if (pack_disk(op, layer, err) < 0 || write_config(vm, m, layer, err) < 0 ||
		image_read_layers(vm->view.image_id.s, &m->layers, err) < 0)
		return -1;
	strv_add(&m->layers, layer);
	return image_make_layers(m, err);
}

const struct step step_pack = {.name = "pack", .run = pack};

/* ---- the image ---- */

/* Nobody starts the VM meanwhile. */
static int make_image(struct op *op, struct vm *vm, struct fcm_error *err)
{
	if (registry_claim(vm, op, clock_in(CLAIM_MS), err) < 0)
		return -1;
	op->maker = vm;
	int r = vm->view.state == VM_STOPPED && vm->shim_pidfd < 0
			? steps_run_all(op, err)
			: fcm_fail(err, FCM_WRONG_STATE, "the VM of the build was started by somebody else");
	op->maker = NULL;
	registry_drop(vm);
	return r;
}

/* ---- the operation ---- */

static int build_in(struct op *op, struct vm *vm, struct fcm_error *err)
{
	const char *script = op->build.script;

	if (script_run(op, vm, script, strlen(script), err) < 0 || stop_vm(op, vm, err) < 0)
		return -1;
	return make_image(op, vm, err);
}

static int build_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm;

	int r = create_vm(op, &vm, err);
	if (r == 0)
		r = build_in(op, vm, err);
	if (registry_listed(vm))
		destroy(vm);
	vm_unref(vm);
	if (r < 0 && (err->code == FCM_GUEST || err->code == FCM_VMM))
		fcm_hint(err, "its VM is gone, and nothing is kept"); /* not to look at that VM */
	return r < 0 ? fcm_wrap(err, "build '%s'", op->build.name) : 0;
}

static int check_layers(const char *from, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv layers = {0};
	struct image_id id;

	if (image_resolve(from, &id, err) < 0 || image_read_layers(id.s, &layers, err) < 0)
		return -1;
	size_t n = layers.n;
	if (n == OCI_LAYERS_MAX)
		return fcm_fail(err, FCM_TOO_LARGE, "image '%s' has %d layers, and none may have more", from,
			OCI_LAYERS_MAX);
	if (n > 0)
		return 0;
	fcm_fail(err, FCM_WRONG_STATE, "image '%s' has no layers: it came as a file system", from);
	return fcm_hint(err, "base, debian and tiny of an older fcm get some by: fcm image build NAME");
}

int engine_build(struct image_build *rq, struct op **ret, struct fcm_error *err)
{
	struct ref_text whole;

	if (image_whole_name(rq->name, "name", &whole, err) < 0 || check_layers(rq->spec.image, err) < 0)
		return -1;
	*ret = op_new(&table_build, NULL, build_run);
	strv_add(&(*ret)->names, whole.s);
	(*ret)->build = *rq;
	*rq = (struct image_build){0};
	return 0;
}
