#include "daemon/shim/shim.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "daemon/shim/plan.h"

enum {
	ANSWER_MAX = 512,
	LAST_WORDS = 1024, /* of the console, where the VMM says why it doesn't start */
	END_MS = 2000,	   /* for a shim that failed to end by itself */
	NOFILE = 1024,	   /* descriptors of a VMM */
};

static void add_all(struct buf *b, const char *key, const struct strv *l)
{
	for (size_t i = 0; l && i < l->n; i++)
		kv_add(b, key, l->v[i]);
}

static void make_plan(const struct shim_spec *spec, struct buf *b)
{
	const struct vmm_plan *plan = spec->plan;

	kv_add(b, "id", spec->id.s);
	kv_addf(b, "uid", "%u", (unsigned)spec->uid);
	kv_addf(b, "gid", "%u", (unsigned)spec->uid);
	if (spec->kvm_gid)
		kv_addf(b, "group", "%u", (unsigned)spec->kvm_gid);
	kv_add(b, "jail", spec->jail);
	add_all(b, "cgroup", spec->cgroups);
	add_all(b, "bind", &plan->binds);
	add_all(b, "link", &plan->links);
	if (plan->memory_mib)
		kv_addf(b, "memory", "%u:" VMM_RAM_DIR, plan->memory_mib);
	kv_addf(b, "nofile", "%d", NOFILE);
	if (plan->tap_fd >= 0) {
		kv_add(b, "net", "none");
		kv_addf(b, "fd", "%d", plan->tap_fd);
	}
	if (plan->stdin_nonblock)
		kv_add(b, "stdin", "nonblock");
	add_all(b, "env", &plan->env);
	add_all(b, "argv", &plan->argv);
}

/* The shim's one line, without its newline. */
static int read_answer(int fd, int64_t deadline, char answer[ANSWER_MAX], struct fcm_error *err)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	size_t n = 0;

	for (;;) {
		int left = clock_left(deadline);
		if (left == 0)
			return fcm_fail(err, FCM_TIMEOUT, "the shim did not start in time");
		if (poll(&p, 1, left) <= 0)
			continue;
		ssize_t k = recv(fd, answer + n, ANSWER_MAX - 1 - n, 0);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return fcm_fail(err, FCM_HOST, "the shim ended before its VMM ran");
		n += (size_t)k;
		answer[n] = '\0';
		char *nl = strchr(answer, '\n');
		if (nl) {
			*nl = '\0';
			return 0;
		}
	}
}

static int parse_answer(char *answer, pid_t *ret, struct fcm_error *err)
{
	int64_t pid;

	if (strncmp(answer, "ready ", 6) == 0 && fcm_parse_i64(answer + 6, 2, INT32_MAX, &pid)) {
		*ret = (pid_t)pid;
		return 0;
	}
	fcm_make_printable(answer);
	return fcm_fail(err, FCM_HOST, "%s", strncmp(answer, "failed ", 7) == 0 ? answer + 7 : answer);
}

/* The VMM ran, and ended before we could look: what it printed is the reason. */
static int died_at_once(const struct shim_spec *spec, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf b = {0};
	struct fcm_error ignored;
	uint64_t total;

	if (shim_ring_tail(spec->vm_dirfd, LAST_WORDS, &b, &total, &ignored) < 0 || b.n == 0)
		return fcm_fail(err, FCM_VMM, "%s ended at once", spec->plan->argv.v[0]);
	b.n = fcm_printable(b.p, b.n);
	while (b.n && b.p[b.n - 1] == '\n')
		b.n--;
	b.p[b.n] = '\0';
	char *nl = strrchr(b.p, '\n');
	return fcm_fail(err, FCM_VMM, "%s ended at once: %s", spec->plan->argv.v[0], nl ? nl + 1 : b.p);
}

static int send_plan(int fd, const struct shim_spec *spec, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf plan = {0};

	make_plan(spec, &plan);
	if (plan.n >= SHIM_PLAN_MAX)
		return fcm_fail(err, FCM_TOO_LARGE, "the VMM's command line is too long");
	/* It fits into the socket's buffer whole, so this doesn't wait for the shim. */
	if (send(fd, plan.p, plan.n, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)plan.n ||
		shutdown(fd, SHUT_WR) < 0)
		return fcm_fail_errno(err, "send the plan");
	return 0;
}

static int spawn(const struct shim_spec *spec, int plan_fd, pid_t *ret_pid, struct fcm_error *err)
{
	struct proc_fd fds[] = {
		{plan_fd, SHIM_PLAN_FD},
		{spec->ring_fd, SHIM_RING_FD},
		{spec->vm_dirfd, SHIM_DIR_FD},
		{spec->tap_fd, spec->plan->tap_fd},
	};
	bool tap = spec->plan->tap_fd >= 0;

	if (tap && spec->tap_fd < 0)
		return fcm_fail(err, FCM_INTERNAL, "the VMM wants a TAP and there is none");
	return proc_spawn(PROC_ARGV(spec->shim, spec->id.s), NULL, fds, tap ? 4 : 3, ret_pid, err);
}

int shim_start(const struct shim_spec *spec, struct proc_id *ret_shim, struct proc_id *ret_vmm,
	struct fcm_error *err)
{
	char answer[ANSWER_MAX];
	struct fcm_error ignored;
	struct proc_id shim, vmm;
	pid_t shim_pid, vmm_pid = 0;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return fcm_fail_errno(err, "socketpair");
	auto_close int ours = pair[0];
	auto_close int theirs = pair[1];
	if (send_plan(ours, spec, err) < 0)
		return -1;
	auto_close int pidfd = spawn(spec, theirs, &shim_pid, err);
	fcm_closep(&theirs);
	if (pidfd < 0)
		return -1;
	if (read_answer(ours, spec->deadline, answer, err) == 0 && parse_answer(answer, &vmm_pid, err) == 0) {
		if (proc_identify(vmm_pid, &vmm, &ignored) == 0 &&
			proc_identify(shim_pid, &shim, &ignored) == 0) {
			*ret_shim = shim;
			*ret_vmm = vmm;
			return 0;
		}
		/* The last words are in the ring when the shim has ended. */
		proc_wait(pidfd, clock_in(END_MS));
		died_at_once(spec, err);
	}
	if (proc_signal(pidfd, SIGKILL, &ignored) == 0)
		proc_wait(pidfd, clock_in(END_MS));
	return fcm_wrap(err, "shim");
}

bool shim_exit_read(int vm_dirfd, struct shim_exit *ret)
{
	_cleanup_(buf_done) struct buf b = {0};
	struct fcm_error ignored;

	if (file_read(vm_dirfd, "exit", 256, &b, &ignored) < 0 || b.n == 0)
		return false;
	*ret = (struct shim_exit){
		.status = (int)kv_i64(b.p, b.n, "status", 0, 255, 0),
		.signal = (int)kv_i64(b.p, b.n, "signal", 0, 128, 0),
	};
	return true;
}

static void describe_argv(const struct strv *argv, struct strv *ret)
{
	_cleanup_(buf_done) struct buf line = {0};

	/* Quoted for a shell where it must be, so that the line can be tried by hand. */
	for (size_t i = 0; i < argv->n; i++) {
		bool plain =
			argv->v[i][strspn(argv->v[i], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
						      "0123456789-_=,./:+@%")] == '\0';
		buf_printf(&line, plain ? "%s%s" : "%s'%s'", i ? " " : "", argv->v[i]);
	}
	strv_addf(ret, "exec %s", line.n ? line.p : "");
}

void shim_describe(const struct shim_spec *spec, struct strv *ret)
{
	const struct vmm_plan *plan = spec->plan;

	strv_addf(ret, "spawn %s for %s, console ring of 1 MiB", spec->shim, spec->id.s);
	for (size_t i = 0; spec->cgroups && i < spec->cgroups->n; i++)
		strv_addf(ret, "join cgroup %s", spec->cgroups->v[i]);
	strv_addf(ret, "unshare mount, ipc%s; pivot_root %s, read-only", plan->tap_fd >= 0 ? ", net" : "",
		spec->jail);
	for (size_t i = 0; i < plan->binds.n; i++)
		strv_addf(ret, "bind %s", plan->binds.v[i]);
	for (size_t i = 0; i < plan->links.n; i++)
		strv_addf(ret, "link %s", plan->links.v[i]);
	if (plan->memory_mib)
		strv_addf(ret, "tmpfs with the file " VMM_RAM ", %u MiB", plan->memory_mib);
	strv_addf(ret, "uid %u, gid %u, no groups%s, no capabilities, no_new_privs, no core dump, %d files",
		(unsigned)spec->uid, (unsigned)spec->uid, spec->kvm_gid ? " but that of /dev/kvm" : "",
		NOFILE);
	if (plan->tap_fd >= 0)
		strv_addf(ret, "hand on the TAP as descriptor %d", plan->tap_fd);
	for (size_t i = 0; i < plan->env.n; i++)
		strv_addf(ret, "environment %s", plan->env.v[i]);
	describe_argv(&plan->argv, ret);
}
