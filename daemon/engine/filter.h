/*
 * Which VMs a list shows. Pure.
 */
#pragma once

#include "common/model.h"

enum { FILTER_LABELS = 16, FILTER_NAME_MAX = 128 };

/* All of it must hold; an empty one fits every VM. The texts are the caller's. */
struct vm_filter {
	unsigned states;		   /* 1 << enum vm_state, any of them; 0: each */
	const char *name;		   /* a pattern of the shell, fnmatch(3); or NULL */
	const char *labels[FILTER_LABELS]; /* "K": it has that label; "K=V": with that value */
	size_t n_labels;
	const char *only; /* "K=V": what the token sees (http_only()); NULL: all */
};

/* Add one condition: "state" (one or more, with commas between them), "name" or "label". FCM_INVALID, naming the key, for another
 * key, a value that makes no sense, a state or name that is there already. */
int vm_filter_add(struct vm_filter *f, const char *key, const char *value, struct fcm_error *err) must_check;

/* Has it that label, "K" or "K=V"? NULL is no condition: true. */
bool labels_have(const struct strv *labels, const char *wanted);

/* Does it fit all? */
bool vm_filter_empty(const struct vm_filter *f);

/* Does it fit this one? */
bool vm_filter_fits(const struct vm_filter *f, const struct vm_view *vm);
