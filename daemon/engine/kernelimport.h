/*
 * A kernel that a request brings: fcm-oci unpacks it (job `unpack`), the store of kernels looks at what came of it. Like import.h's, an
 * operation without a VM, which ends when nobody waits for it.
 */
#pragma once

#include "daemon/engine/op.h"

/* Begin one; its bytes, a tar of vmlinux, initrd and release, go into *ret_fd, as engine_import()'s do. An older one of that name is
 * replaced. op->image is the kernel. FCM_INVALID naming "name". */
int engine_kernel_import(const char *name, struct op **ret, int *ret_fd, struct fcm_error *err) must_check;
