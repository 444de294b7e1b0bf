/*
 * What of a VM can be changed: its name, size, restart policy and labels.
 */
#pragma once

#include "common/model.h"

struct vm_traits {
	char name[64];
	uint32_t vcpus, mem_mib; /* of the machine that runs, or ran last */
	struct vm_next next;
	enum vm_restart restart;
	struct strv labels;
};

/* Change *t as the request says. Where the machine isn't `down`, its size waits for the next start. FCM_INVALID for labels that
 * are too many or too large together. */
int update_apply(
	const struct update_request *u, bool down, struct vm_traits *t, struct fcm_error *err) must_check;

/* Take what waited for the next start. */
void update_take_next(struct vm_view *view);

/* It goes back to a machine of that size; what it had, or was to have, comes with the next boot. */
void update_go_back(struct vm_view *view, const struct vm_spec *size);
