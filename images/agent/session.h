/*
 * What the host says, and what we answer.
 */
#pragma once

#include "images/agent/agent.h"

/* Write an error as an answer has it: a kv list without a word of what was there before. */
void session_error(struct buf *answer, const struct fcm_error *err);

/* Serve every whole frame that the channel holds. */
void session_serve(struct agent *a);

/* Serve the main process: when it has ended, so does the machine; when the machine ends, it ends first. */
void session_main(struct agent *a);

/* Serve what is frozen. Before exec_tick(). */
void session_freeze(struct agent *a);

/* End the machine, and tell the host what is meant. Repeated calls are harmless (power.h). */
void session_power(struct agent *a, enum power_intent intent, int64_t grace_ms);
