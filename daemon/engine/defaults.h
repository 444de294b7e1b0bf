/*
 * What a VM takes from its image's config.
 */
#pragma once

#include "common/model.h"
#include "daemon/image/config.h"

struct op;

/* Complete what the user said with what the image says: entrypoint and args become one list, args; volumes are added, and ports
 * where the user wants the image's; the health check has all its numbers then. Into *ret_ports go the ports that the image names,
 * "80/tcp". FCM_INVALID when it isn't what a VM may have. Pure. */
int defaults_apply(struct vm_spec *spec, const struct image_config *image, struct strv *ret_ports,
	struct fcm_error *err) must_check;
