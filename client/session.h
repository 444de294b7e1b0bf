/*
 * A tunnel to a port of a VM, joined to two descriptors.
 */
#pragma once

#include "common/httpc.h"

/* Move bytes from `in` to the tunnel and from the tunnel to `out` until the VM's side ends. The end of `in` ends that
 * direction only. Does not change the flags of the descriptors, which others share. */
int session_relay(struct httpc_tunnel *t, int in, int out, struct fcm_error *err) must_check;
