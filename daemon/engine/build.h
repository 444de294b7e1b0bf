/*
 * A build: a script runs in a VM of an image, and what it changed becomes a layer on that image's. The VM is the build's own
 * (vm_view.throwaway): it goes in any case, by the build, or by the daemon that starts after one that was killed.
 */
#pragma once

#include "daemon/engine/op.h"

/* Build rq->name: an op without a VM, not started yet, that ends when it is given up; op->image is what it made. Its progress has the
 * steps of a create and a stop, `script` `pack` and `merge`, and the events "output" and "exit" (script.h). *rq is taken over. FCM_NO_IMAGE;
 * FCM_WRONG_STATE for an image that has no layers; FCM_INVALID naming `name`. */
int engine_build(struct image_build *rq, struct op **ret, struct fcm_error *err) must_check;
