/*
 * One question to a guest, asked by its agent (op=probe, docs/AGENT.md): does this port, this URL, this command answer?
 * It takes no thread, and of what the guest says no more than a line is kept.
 */
#pragma once

#include "common/model.h"
#include "daemon/guest/guest.h"

enum { PROBE_WHY = 160 };

struct probe;

enum probe_state { PROBE_LATER, PROBE_GOOD, PROBE_BAD };

/* The requests: what `r` waits for (ssh, tcp, http or exec), what the health of `spec` asks. `ip` is the guest's own address; it
 * has `timeout_ms` for its answer. Where there is a main process, its user checks its health, where it runs. */
void probe_of_ready(const struct ready_spec *r, struct in_addr ip, int64_t timeout_ms, struct buf *ret);
void probe_of_health(const struct vm_spec *spec, struct buf *ret);

/* Ask. Fails at once where the guest has no session. */
int probe_begin(
	struct guest *g, const struct buf *request, struct probe **ret, struct fcm_error *err) must_check;

/* Is there an answer? With PROBE_BAD `why` says what was wrong, in printable words. Never blocks. */
enum probe_state probe_poll(struct probe *p, char why[PROBE_WHY]);

/* Readable when probe_poll() may have more to say. */
int probe_fd(const struct probe *p);

/* Be done with it: what still runs in the guest is ended. NULL-safe. */
void probe_free(struct probe *p);
