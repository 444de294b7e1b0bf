/*
 * What an OCI image says of its program, for a VM that is made of it: what the user left out. As docker does it: an entrypoint of
 * the user's replaces the image's, and its command with it; words of his replace the command alone.
 */
#include "daemon/engine/defaults.h"

#include <string.h>

#include "common/core/signals.h"
#include "daemon/engine/engine.h"
#include "daemon/image/config.h"

enum { WORDS_MAX = 12 << 10 }; /* bytes that travel to the guest in one frame */

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

void defaults_apply(struct vm_spec *spec, const struct image_config *image)
{
	struct main_spec *m = &spec->main;
	struct strv words = {0};

	add_all(&words, m->entrypoint.n ? &m->entrypoint : &image->entrypoint);
	if (m->args.n || m->entrypoint.n)
		add_all(&words, &m->args);
	else
		add_all(&words, &image->cmd);
	strv_done(&m->args);
	strv_done(&m->entrypoint);
	m->args = words;
	if (m->dir == NULL && image->dir && image->dir[0] == '/')
		m->dir = xstrdup(image->dir);
	if (m->user == NULL && image->user && *image->user)
		m->user = xstrdup(image->user);
	if (m->stop_signal == 0 && image->stop_signal)
		m->stop_signal = signal_parse(image->stop_signal);
	for (size_t i = 0; i < image->env.n; i++)
		if (is_plain(image->env.v[i]) && !has_key(&spec->env, image->env.v[i]))
			strv_add(&spec->env, image->env.v[i]);
}

int engine_take_defaults(struct vm *vm, struct fcm_error *err)
{
	_cleanup_(image_config_done) struct image_config image = {0};
	struct vm_spec *spec = &vm->view.spec;

	if (image_config_load(&vm->view.image_id, &image, err) < 0)
		return -1;
	VM_SET(vm, defaults_apply(&view->spec, &image));
	if (main_given(&spec->main) && spec->main.args.n == 0) {
		fcm_fail_field(err, FCM_INVALID, "main.args",
			"main.args: say what to run: the image '%s' names nothing", spec->image);
		return fcm_hint(err, "for a machine to log in to: fcm create %s", spec->image);
	}
	if (bytes_of(&spec->main.args) > WORDS_MAX)
		return fcm_fail_field(
			err, FCM_INVALID, "main.args", "the command is longer than %d KiB", WORDS_MAX >> 10);
	if (spec->env.n > VM_MAX_ENV || bytes_of(&spec->env) > VM_MAX_ENV_BYTES)
		return fcm_fail_field(err, FCM_INVALID, "env",
			"with the image's the environment is longer than %d entries or %d KiB", VM_MAX_ENV,
			VM_MAX_ENV_BYTES >> 10);
	return 0;
}
