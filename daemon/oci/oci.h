/*
 * fcm-oci: the program that reads what strangers made. It speaks to registries, unpacks archives and merges layers into a
 * file system, as a child of the daemon for one job each, without a privilege (sandbox.h). What it says is bounded and
 * checked again by the daemon (job.h).
 *
 * Descriptor 3 is a SOCK_SEQPACKET socket; each packet is one kv list (common/core/kv.h) of at most OCI_PACKET bytes. The
 * daemon sends the plan, in one packet:
 *
 *	job=NAME	a row of the table in main.c
 *	uid=N		whom to become; the group has the same number
 *	layer=HEX ...	merge: the layers, lowest first, by the sha256 of their uncompressed tar (diff_id)
 *
 * and what else a job wants (at the head of its file). The program answers with any number of
 *
 *	progress=TEXT id=TEXT current=N total=N		total 0: not known
 *	said=TEXT					a line for the user
 *
 * and at last one of
 *
 *	ok=1 ...		with the job's results
 *	error=TEXT code=WIRE	with field= and hint= where there are any (common/core/errors.def)
 *
 * Further descriptors of the plan, each where the job uses it:
 *
 *	4	OCI_DIR: a directory of the job's own, owned by its uid; its results are made there
 *	5	OCI_LAYERS: the directory of layers that are here already, <diff_id>.tar, readable
 *	6	OCI_IN: bytes to read, a pipe or a file
 *	7	OCI_OUT: a regular file to write
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum {
	OCI_SOCKET = 3,
	OCI_DIR,
	OCI_LAYERS,
	OCI_IN,
	OCI_OUT,
	OCI_FD_END,
	OCI_PACKET = 64 << 10,
	OCI_LAYERS_MAX = 128, /* docker stacks no more than 127 */
};

/* Limits of an image, whoever made it. */
#define OCI_LAYER_BYTES ((uint64_t)64 << 30)  /* of one layer, uncompressed */
#define OCI_IMAGE_BYTES ((uint64_t)128 << 30) /* of all layers of an image together */

/* What a job knows. */
struct oci_job {
	const void *plan; /* the kv list */
	size_t plan_n;
	int layer_fds[OCI_LAYERS_MAX]; /* of `layer`, in its order, opened before the sandbox closed */
	size_t layers;
};

/* A job: fills *ret with its results (a kv list). */
typedef int oci_run(const struct oci_job *job, struct buf *ret, struct fcm_error *err);

/* ---- report.c ---- */

/* Tell the daemon how far something is, at most ten times a second for each `id`; what is complete is always told. On any
 * thread. */
void oci_progress(const char *what, const char *id, uint64_t current, uint64_t total);

/* A line for the user. */
void oci_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The last word: what went wrong, or what came of it. */
void oci_fail(const struct fcm_error *err);
void oci_done(const struct buf *results);
