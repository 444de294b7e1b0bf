/*
 * What a VM takes from its image's config.
 */
#pragma once

#include "common/model.h"
#include "daemon/image/config.h"

struct vm;

/* Complete what the user said with what the image says; entrypoint and args become one list, args. Pure. */
void defaults_apply(struct vm_spec *spec, const struct image_config *image);

/* The same for a VM that is being made, whose image is pinned. FCM_INVALID when it is more than a VM may have. */
int engine_take_defaults(struct vm *vm, struct fcm_error *err) must_check;
