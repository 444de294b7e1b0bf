/*
 * The daemon's side of fcm-oci (oci.h): start one, hear how it goes, take its answer.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"
#include "daemon/oci/oci.h"

struct oci_spec {
	const char *program;		      /* path of fcm-oci */
	uid_t uid;			      /* whom it becomes; never 0 */
	const char *job;		      /* "merge" */
	const struct buf *plan;		      /* what else it is told, a kv list; may be NULL */
	int dir_fd, layers_fd, in_fd, out_fd; /* -1: none */

	/* Called on the caller's thread while the job runs, with text that is printable and bounded; each may be NULL.
	 * `cancelled` is asked several times a second: true ends the job. */
	void (*progress)(void *arg, const char *what, const char *id, uint64_t current, uint64_t total);
	void (*said)(void *arg, const char *line);
	bool (*cancelled)(void *arg);
	void *arg;
};

/* Run a job to its end: 0 and its results, a kv list of the caller's, in *ret (may be NULL). What the job said of an error is
 * taken over (code, message, field and hint made printable); FCM_HOST when it ended without a word, FCM_CANCELLED. When it
 * returns the program has ended. May take minutes. The values of *ret are a stranger's: they are to be checked. */
int oci_run_job(const struct oci_spec *spec, struct buf *ret, struct fcm_error *err) must_check;
