/*
 * fcm-oci: one job for the daemon (oci.h). Plan, layers, sandbox, job, answer.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "common/core/kv.h"
#include "daemon/oci/import.h"
#include "daemon/oci/merge.h"
#include "daemon/oci/oci.h"
#include "daemon/oci/pack.h"
#include "daemon/oci/pull.h"
#include "daemon/oci/sandbox.h"
#include "daemon/oci/unpack.h"

static const struct row {
	const char *name;
	bool network;
	oci_run *run;
} rows[] = {
	{"import", false, oci_import},
	{"merge", false, oci_merge},
	{"pack", false, oci_pack},
	{"unpack", false, oci_unpack},
	{"pull", true, oci_pull},
	{"check", true, oci_check},
	{0},
};

static char plan[OCI_PACKET];

static int read_plan(size_t *ret_n, struct fcm_error *err)
{
	ssize_t n = recv(OCI_SOCKET, plan, sizeof plan, MSG_TRUNC);

	if (n <= 0 || (size_t)n > sizeof plan)
		return fcm_fail(err, FCM_INTERNAL, "there is no good plan");
	*ret_n = (size_t)n;
	return 0;
}

static const struct row *find_row(const char *name, struct fcm_error *err)
{
	for (const struct row *row = rows; name && row->name; row++)
		if (strcmp(row->name, name) == 0)
			return row;
	fcm_fail(err, FCM_INTERNAL, "there is no job '%s'", name ? name : "");
	return NULL;
}

/* The daemon named them, so they are opened with its rights. */
static int open_layers(struct oci_job *job, struct fcm_error *err)
{
	for (const char *s = NULL; (s = kv_next(job->plan, job->plan_n, "layer", s));) {
		auto_free char *file = xprintf("%s.tar", s);
		if (job->layers == OCI_LAYERS_MAX)
			return fcm_fail(err, FCM_TOO_LARGE, "more than %d layers", OCI_LAYERS_MAX);
		int fd = openat(OCI_LAYERS, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return fcm_fail_errno(err, "open layer %s", s);
		job->layer_fds[job->layers++] = fd;
	}
	return 0;
}

static int run(struct oci_job *job, struct buf *results, struct fcm_error *err)
{
	int64_t uid;

	if (read_plan(&job->plan_n, err) < 0)
		return -1;
	job->plan = plan;
	const struct row *row = find_row(kv_get(plan, job->plan_n, "job"), err);
	if (row == NULL || open_layers(job, err) < 0)
		return -1;
	uid = kv_i64(plan, job->plan_n, "uid", 1, UINT32_MAX - 1, 0);
	if (sandbox_enter((uid_t)uid, row->network, err) < 0)
		return -1;
	return row->run(job, results, err);
}

int main(void)
{
	struct buf results = {0};
	struct fcm_error err;
	struct oci_job job = {0};

	syscall(SYS_close_range, OCI_FD_END, ~0U, 0);
	int r = run(&job, &results, &err);
	if (r < 0)
		oci_fail(&err);
	else
		oci_done(&results);
	_exit(r < 0); /* what libraries do at exit, LeakSanitizer among them, the sandbox has no room for */
}
