/*
 * The operations: what claims a VM, runs a table, and keeps the outcome. Each is an op's `run`.
 */
#pragma once

#include "daemon/engine/op.h"
#include "daemon/engine/reconcile.h"

/* What the API asks for. */
int op_create_run(struct op *op, struct fcm_error *err);
int op_start_run(struct op *op, struct fcm_error *err); /* changed = false when it ran already */
int op_stop_run(struct op *op, struct fcm_error *err);	/* changed = false when it was stopped */
int op_restart_run(struct op *op, struct fcm_error *err);
int op_pause_run(struct op *op, struct fcm_error *err);	  /* changed = false when it was paused */
int op_resume_run(struct op *op, struct fcm_error *err);  /* changed = false when it ran */
int op_suspend_run(struct op *op, struct fcm_error *err); /* changed = false when it was suspended */
int op_snapshot_run(struct op *op, struct fcm_error *err);
int op_restore_run(struct op *op, struct fcm_error *err);
int op_park_run(struct op *op, struct fcm_error *err); /* changed = false when it didn't run */
int op_destroy_run(struct op *op, struct fcm_error *err);
int op_expose_run(struct op *op, struct fcm_error *err);
int op_publish_run(struct op *op, struct fcm_error *err);
int op_keys_run(struct op *op, struct fcm_error *err);
int op_update_run(struct op *op, struct fcm_error *err);

/* What nobody asked for: the VMM ended; a start is due, after a crash or a boot of the host; what the daemon found when it
 * started (see reconcile.h); the agent's channel broke; it isn't healthy; its TAP is gone; a pending
 * site. */
int op_ended_run(struct op *op, struct fcm_error *err);
/* Attach to a VM that lives, as a daemon does that has just begun; whoever holds it. */
int claimed_adopt(struct op *op, struct fcm_error *err);

/* The same for one that may not have been reached yet: requests come while a new daemon still adopts. */
int claimed_reach(struct op *op, struct fcm_error *err);
int op_revive_run(struct op *op, struct fcm_error *err);
int op_unhealthy_run(struct op *op, struct fcm_error *err);
int op_repair_run(struct op *op, struct fcm_error *err);
enum repair repair_due(const struct vm *vm); /* by what is known of it now */
int op_reconnect_run(struct op *op, struct fcm_error *err);
int op_remove_run(struct op *op, struct fcm_error *err);
int op_tap_gone_run(struct op *op, struct fcm_error *err);
int op_site_retry_run(struct op *op, struct fcm_error *err);
