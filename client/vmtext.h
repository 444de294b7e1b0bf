/*
 * A VM of the API in words: what several commands say of one.
 */
#pragma once

#include "common/core/error.h"
#include "common/field.h"

/* "172.16.0.50 · base · qemu (tcg: no usable KVM)"; the caller's. */
char *vm_words(const field_json *vm);

/* A published port, "0.0.0.0:8080:80/tcp", as docker shows it: "80/tcp -> 0.0.0.0:8080". */
void vm_port_words(struct buf *b, const char *text);

/* What a snapshot holds: "61 MB, with memory" or "5.0 MB, disk only". */
void vm_snapshot_words(const field_json *snapshot, struct buf *b);

/* The URL that it is exposed at, or "". */
const char *vm_url(const field_json *vm);

/* " (certificate pending)" and the like behind the URL when it doesn't work yet; the caller's, "" when it does. */
char *vm_url_note(const field_json *vm);

/* Put "cannot start 'web'" in front of what the daemon said of a VM, and its name into the hint. Errors that aren't about
 * the VM (no daemon, no token, no such VM) stay as they are. `name` may be "". Always -1. */
int vm_failed(struct fcm_error *err, const char *verb, const char *name);

/* Does the answer of an operation say that there was nothing to do? */
bool vm_unchanged(const field_json *answer);

/* Does it run, or is it paused? Then it has its VMM, its memory and its ports. */
bool vm_up(const field_json *vm);

/* The command that makes it run, for hints: "start", or "resume" for one that is paused. */
const char *vm_verb(const field_json *vm);

/* Why it failed, or "". */
const char *vm_reason(const field_json *vm);
