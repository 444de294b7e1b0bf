/*
 * What an OCI image says of its program, for a VM that is made of it: what the user left out. As docker does it: an entrypoint of
 * the user's replaces the image's, and its command with it; words of his replace the command alone.
 */
#include "daemon/engine/defaults.h"

#include <string.h>

#include "common/core/publish.h"
#include "common/core/signals.h"
#include "common/core/volume.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/snapshots.h"
#include "daemon/image/image.h"

enum {
	IMAGE_HEALTH_TIMEOUT = 30, /* seconds; docker's default for a check of an image's */
	NS_PER_S = 1000000000,
};

static void add_all(struct strv *dst, const struct strv *src)
{
	for (size_t i = 0; i < src->n; i++)
		strv_add(dst, src->v[i]);
}

static size_t bytes_of(const struct strv *l)
{
	size_t n = 0;

	for (size_t i = 0; i < l->n; i++)
		n += strlen(l->v[i]) + 1;
	return n;
}

/* ---- the program ---- */

static void take_words(struct main_spec *m, const struct image_config *image)
{
	struct strv words = {0};

	add_all(&words, m->entrypoint.n ? &m->entrypoint : &image->entrypoint);
	if (m->args.n || m->entrypoint.n)
		add_all(&words, &m->args);
	else
		add_all(&words, &image->cmd);
	strv_done(&m->args);
	strv_done(&m->entrypoint);
	m->args = words;
}

static int take_main(struct vm_spec *spec, const struct image_config *image, struct fcm_error *err)
{
	struct main_spec *m = &spec->main;

	take_words(m, image);
	if (m->dir == NULL && image->dir && image->dir[0] == '/')
		m->dir = xstrdup(image->dir);
	if (m->user == NULL && image->user && *image->user)
		m->user = xstrdup(image->user);
	if (m->stop_signal == 0 && image->stop_signal)
		m->stop_signal = signal_parse(image->stop_signal);
	if (bytes_of(&m->args) > VM_MAX_MAIN_BYTES)
		return fcm_fail_field(err, FCM_INVALID, "main.args", "the command is longer than %d KiB",
			VM_MAX_MAIN_BYTES >> 10);
	if (m->args.n == 0)
		spec->hold = false;
	if (m->args.n || !main_given(m))
		return 0;
	fcm_fail_field(err, FCM_INVALID, "main.args",
		"main.args: say what to run: the image '%s' names nothing", spec->image);
	return fcm_hint(err, "for a machine to log in to: fcm create %s", spec->image);
}

static bool has_key(const struct strv *env, const char *entry)
{
	size_t n = strcspn(entry, "=");

	for (size_t i = 0; i < env->n; i++)
		if (strncmp(env->v[i], entry, n) == 0 && env->v[i][n] == '=')
			return true;
	return false;
}

/* Lines and odd names of a stranger's have no place in a guest's environment. */
static bool is_plain(const char *entry)
{
	return strchr(entry, '=') && entry[0] != '=' && strpbrk(entry, "\n\r") == NULL;
}

static int take_env(struct vm_spec *spec, const struct image_config *image, struct fcm_error *err)
{
	for (size_t i = 0; i < image->env.n; i++)
		if (is_plain(image->env.v[i]) && !has_key(&spec->env, image->env.v[i]))
			strv_add(&spec->env, image->env.v[i]);
	if (spec->env.n > VM_MAX_ENV || bytes_of(&spec->env) > VM_MAX_ENV_BYTES)
		return fcm_fail_field(err, FCM_INVALID, "env",
			"with the image's the environment is longer than %d entries or %d KiB", VM_MAX_ENV,
			VM_MAX_ENV_BYTES >> 10);
	return 0;
}

/* ---- volumes ---- */

/* Does the user have something of his own there? */
static bool is_taken(const struct vm_spec *spec, const char *path)
{
	char own[VOLUME_PATH_MAX + 1];
	struct volume_ref ref;
	struct fcm_error ignored;

	for (size_t i = 0; i < spec->volumes.n; i++)
		if (volume_ref_parse(spec->volumes.v[i], "volumes", &ref, &ignored) == 0 &&
			strcmp(ref.path, path) == 0)
			return true;
	for (size_t i = 0; i < spec->main.tmpfs.n; i++)
		if (volume_path_parse(spec->main.tmpfs.v[i], "tmpfs", own, &ignored) == 0 &&
			strcmp(own, path) == 0)
			return true;
	return false;
}

/* A volume without a name for each. What the machine mounts itself (systemd's images name /sys/fs/cgroup and /run) needs none. */
static int take_volumes(struct vm_spec *spec, const struct image_config *image, struct fcm_error *err)
{
	char path[VOLUME_PATH_MAX + 1];

	for (size_t i = 0; i < image->volumes.n; i++) {
		const char *wanted = image->volumes.v[i];
		if (volume_path_kept(wanted))
			continue;
		if (volume_path_parse(wanted, "volumes", path, err) < 0)
			return fcm_wrap(err, "VOLUME of the image '%s'", spec->image);
		if (is_taken(spec, path))
			continue;
		if (spec->volumes.n == VM_MAX_VOLUMES)
			return fcm_fail_field(err, FCM_INVALID, "volumes",
				"volumes: with those of the image there are more than %d", VM_MAX_VOLUMES);
		strv_add(&spec->volumes, path);
	}
	return 0;
}

/* ---- ports ---- */

/* A stranger's entries that are no ports are passed over: nothing listens there. */
static void read_ports(const struct image_config *image, struct publish_list *ret)
{
	struct fcm_error ignored;

	ret->n = 0;
	for (size_t i = 0; i < image->ports.n; i++)
		if (strchr(image->ports.v[i], ':') == NULL)
			(void)!publish_add(ret, image->ports.v[i], "ports", &ignored);
}

static char *port_text(const struct publish *p)
{
	return xprintf("%u/%s", p->port, p->udp ? "udp" : "tcp");
}

/* Those that the user publishes himself aren't published once more. */
static int publish_all(struct vm_spec *spec, const struct publish_list *ports, struct fcm_error *err)
{
	struct publish_list own = {0};

	if (publish_add_all(&own, &spec->publish, "publish", err) < 0)
		return -1;
	for (size_t i = 0; i < ports->n; i++) {
		const struct publish *p = &ports->v[i];
		size_t k = 0;
		while (k < own.n && (own.v[k].port != p->port || own.v[k].udp != p->udp))
			k++;
		auto_free char *text = port_text(p);
		if (k == own.n)
			strv_add(&spec->publish, text);
	}
	return 0;
}

static int expose_only(struct vm_spec *spec, const struct publish_list *ports, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf all = {0};
	uint32_t port = 0, n = 0;

	for (size_t i = 0; i < ports->n; i++) {
		if (ports->v[i].udp)
			continue;
		port = ports->v[i].port;
		buf_printf(&all, "%s%u", n++ ? ", " : "", port);
	}
	if (n == 1) {
		spec->expose_port = port;
		return 0;
	}
	fcm_fail_field(err, FCM_INVALID, "expose_image",
		n ? "the image '%s' names several ports: %s" : "the image '%s' names no TCP port%s",
		spec->image, n ? all.p : "");
	return fcm_hint(err, "say which: --expose PORT");
}

static int take_ports(
	struct vm_spec *spec, const struct image_config *image, struct strv *ret, struct fcm_error *err)
{
	struct publish_list ports;

	read_ports(image, &ports);
	for (size_t i = 0; i < ports.n; i++) {
		auto_free char *text = port_text(&ports.v[i]);
		strv_add(ret, text);
	}
	if (spec->publish_all && publish_all(spec, &ports, err) < 0)
		return -1;
	return spec->expose_image && spec->expose_port == 0 ? expose_only(spec, &ports, err) : 0;
}

/* ---- health ---- */

/* Whole seconds, at least one, at most what a VM may have. */
static uint32_t seconds(int64_t ns, uint32_t otherwise, uint32_t max)
{
	int64_t s = ns <= 0 ? otherwise : ns / NS_PER_S + (ns % NS_PER_S > 0);

	return (uint32_t)MIN(s, (int64_t)max);
}

/* What the user said of times and tries stays. */
static void take_numbers(struct health_spec *h, const struct image_health *i)
{
	if (h->interval == 0)
		h->interval = seconds(i->interval, HEALTH_INTERVAL, HEALTH_MAX_SECONDS);
	if (h->timeout == 0)
		h->timeout = seconds(i->timeout, IMAGE_HEALTH_TIMEOUT, PROBE_MAX_SECONDS);
	if (h->start_period == 0)
		h->start_period = seconds(i->start_period, 0, HEALTH_MAX_SECONDS);
	if (h->retries == 0 && i->retries > 0)
		h->retries = (uint32_t)MIN(i->retries, (int64_t)HEALTH_MAX_RETRIES);
}

static int take_test(struct vm_spec *spec, const struct image_health *i, struct fcm_error *err)
{
	struct health_spec *h = &spec->health;
	const char *kind = i->test.v[0];

	if (strcmp(kind, "CMD-SHELL") == 0 && i->test.n == 2 && *i->test.v[1]) {
		h->cmd = xstrdup(i->test.v[1]);
	} else if (strcmp(kind, "CMD") == 0 && i->test.n >= 2 && *i->test.v[1]) {
		for (size_t k = 1; k < i->test.n; k++)
			strv_add(&h->args, i->test.v[k]);
	} else {
		fcm_fail_field(err, FCM_INVALID, "health",
			"health: the HEALTHCHECK of the image '%s' makes no sense", spec->image);
		return fcm_hint(err, "--no-healthcheck, or say yours: --health-cmd");
	}
	take_numbers(h, i);
	return 0;
}

static void no_health(struct health_spec *h)
{
	field_done(health_fields, h);
}

static void fill_in(struct health_spec *h)
{
	h->interval = h->interval ? h->interval : HEALTH_INTERVAL;
	h->timeout = h->timeout ? h->timeout : HEALTH_TIMEOUT;
	h->retries = h->retries ? h->retries : HEALTH_RETRIES;
}

static int take_health(struct vm_spec *spec, const struct image_config *image, struct fcm_error *err)
{
	struct health_spec *h = &spec->health;
	const struct image_health *i = &image->health;
	bool images = i->test.n && strcmp(i->test.v[0], "NONE") != 0;

	if (h->disable) {
		no_health(h);
		return 0;
	}
	if (!health_given(h) && images && take_test(spec, i, err) < 0)
		return -1;
	if ((h->cmd && strlen(h->cmd) > PROBE_MAX_COMMAND) || bytes_of(&h->args) > PROBE_MAX_COMMAND)
		return fcm_fail_field(err, FCM_INVALID, "health",
			"health: the command is longer than %d bytes", PROBE_MAX_COMMAND);
	if (!health_given(h) && (h->interval || h->timeout || h->retries || h->start_period))
		return fcm_fail_field(err, FCM_INVALID, "health",
			"health: it needs cmd, args or http: the image '%s' has no HEALTHCHECK", spec->image);
	if (health_given(h))
		fill_in(h);
	else
		no_health(h);
	return 0;
}

int defaults_apply(
	struct vm_spec *spec, const struct image_config *image, struct strv *ret_ports, struct fcm_error *err)
{
	if (take_main(spec, image, err) < 0 || take_env(spec, image, err) < 0 ||
		take_volumes(spec, image, err) < 0 || take_ports(spec, image, ret_ports, err) < 0)
		return -1;
	return take_health(spec, image, err);
}

/* ---- image: which one it is, and what that says ---- */

static int take_image(struct op *op, struct fcm_error *err)
{
	_cleanup_(image_config_done) struct image_config image = {0};
	struct vm *vm = op->vm;
	int rc;

	/* before anything else: an image that isn't here may be pulled for minutes */
	if (op->save && snapshot_could(op, err) < 0)
		return -1;
	if (engine_pin_image(vm, err) < 0 || image_config_load(&vm->view.image_id, &image, err) < 0)
		return -1;
	VM_SET(vm, rc = defaults_apply(&view->spec, &image, &view->image_ports, err);
		view->expose.port = view->spec.expose_port);
	return rc;
}

const struct step step_image = {.name = "image", .run = take_image};
