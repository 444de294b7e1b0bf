#include "daemon/engine/filter.h"

#include <fnmatch.h>
#include <string.h>

static int add_state(struct vm_filter *f, const char *name, size_t n, struct fcm_error *err)
{
	for (unsigned i = 0; vm_state_names[i]; i++)
		if (strlen(vm_state_names[i]) == n && memcmp(vm_state_names[i], name, n) == 0) {
			f->states |= 1u << i;
			return 0;
		}
	auto_free char *text = xprintf("%.*s", (int)MIN(n, (size_t)32), name);
	return fcm_fail_field(err, FCM_INVALID, "state", "state: there is no state '%s'", text);
}

static int add_states(struct vm_filter *f, const char *value, struct fcm_error *err)
{
	for (const char *p = value;; p++) {
		size_t n = strcspn(p, ",");
		if (add_state(f, p, n, err) < 0)
			return -1;
		p += n;
		if (*p == '\0')
			return 0;
	}
}

static int add_name(struct vm_filter *f, const char *value, struct fcm_error *err)
{
	if (*value == '\0' || strlen(value) > FILTER_NAME_MAX)
		return fcm_fail_field(err, FCM_INVALID, "name", "name: 1 to %d bytes", FILTER_NAME_MAX);
	f->name = value;
	return 0;
}

static int add_label(struct vm_filter *f, const char *value, struct fcm_error *err)
{
	if (*value == '\0' || *value == '=')
		return fcm_fail_field(err, FCM_INVALID, "label", "label: KEY or KEY=VALUE");
	if (f->n_labels == FILTER_LABELS)
		return fcm_fail_field(err, FCM_INVALID, "label", "label: more than %d", FILTER_LABELS);
	f->labels[f->n_labels++] = value;
	return 0;
}

int vm_filter_add(struct vm_filter *f, const char *key, const char *value, struct fcm_error *err)
{
	const struct {
		const char *key;
		bool given;
		int (*add)(struct vm_filter *f, const char *value, struct fcm_error *err);
	} table[] = {
		{"state", f->states, add_states},
		{"name", f->name, add_name},
		{"label", false, add_label},
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		if (strcmp(table[i].key, key) != 0)
			continue;
		return table[i].given ? fcm_fail_field(err, FCM_INVALID, key, "%s: is there twice", key)
				      : table[i].add(f, value, err);
	}
	return fcm_fail_field(
		err, FCM_INVALID, "filter", "there is no filter '%.32s': state, name or label", key);
}

bool vm_filter_empty(const struct vm_filter *f)
{
	return f->states == 0 && f->name == NULL && f->n_labels == 0 && f->only == NULL;
}

bool labels_have(const struct strv *labels, const char *wanted)
{
	if (wanted == NULL)
		return true;
	size_t n = strlen(wanted);
	bool with_value = strchr(wanted, '=') != NULL;

	for (size_t i = 0; i < labels->n; i++)
		if (with_value ? strcmp(labels->v[i], wanted) == 0
			       : strncmp(labels->v[i], wanted, n) == 0 && labels->v[i][n] == '=')
			return true;
	return false;
}

bool vm_filter_fits(const struct vm_filter *f, const struct vm_view *vm)
{
	if (f->states && !(f->states & 1u << vm->state))
		return false;
	if (f->name && fnmatch(f->name, vm->name, 0) != 0)
		return false;
	for (size_t i = 0; i < f->n_labels; i++)
		if (!labels_have(&vm->spec.labels, f->labels[i]))
			return false;
	return labels_have(&vm->spec.labels, f->only);
}
