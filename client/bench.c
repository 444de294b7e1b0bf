/*
 * fcm bench: how long a VM takes on this daemon, by the requests that everybody makes.
 *
 * What it makes has names of its own, and goes in any case: signals are blocked from the first request to the last, a thread takes
 * them, and between two requests the main thread looks whether one has come. A second one ends the program at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "client/ending.h"
#include "client/out.h"
#include "client/term.h"
#include "common/core/clock.h"
#include "common/core/fileio.h"

enum { ROUNDS_MAX = 100, ROUNDS = 5, CPUINFO_MAX = 1 << 20 };

static const char *const how[] = {
	"one request after the other, as this client sees them: create and clone",
	"until the VM is up, exec of true until its answer, destroy until nothing",
	"is left; p50 and p95 by nearest rank, so that of few rounds the p95 is the",
	"longest",
};

enum what { CREATE, EXEC, CLONE, DESTROY, WHATS };
static const char *const names[] = {"create", "exec", "clone", "destroy"};

struct bench_options {
	uint32_t rounds;
};

static const struct bench_options defaults = {.rounds = ROUNDS};

static const struct field bench_fields[] = {
	F(struct bench_options, rounds, FIELD_U32, .min = 1, .max = ROUNDS_MAX),
	FIELD_END,
};

static const struct option_row options[] = {
	{"rounds", 'n', "N", NULL, "how often each is measured (default 5)"},
	{0},
};

struct bench {
	struct cli *cli;
	const char *image; /* or NULL: the daemon's default */
	uint32_t rounds;
	char name[32];				   /* of its VM and its snapshot */
	char clone[40];				   /* of the VM that is made of that */
	int64_t us[WHATS][(size_t)2 * ROUNDS_MAX]; /* of each destroy there are two */
	size_t count[WHATS];
	field_json *vm; /* as the first create answered */
};

/* ---- signals ---- */

static atomic_int interrupted; /* the signal */

static void *take_signals(void *arg)
{
	sigset_t set;
	int sig = 0;

	(void)arg;
	ending_signals(&set);
	if (sigwait(&set, &sig) == 0)
		interrupted = sig;
	dprintf(STDERR_FILENO, "%sfcm: stopping; what it made goes first\n", term_has_progress() ? "\n" : "");
	/* The next one is as it is everywhere. */
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	while (pause() < 0)
		;
	return NULL;
}

/* To be called before there is any other thread. */
static int signals_begin(struct fcm_error *err)
{
	pthread_t thread;
	sigset_t set;

	ending_signals(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	errno = pthread_create(&thread, NULL, take_signals, NULL);
	return errno ? fcm_fail_errno(err, "make a thread") : 0;
}

/* End as that signal ends a program. */
static void end_interrupted(void)
{
	sigset_t set;

	fprintf(stderr, "fcm: interrupted; what it made is removed\n");
	ending_signals(&set);
	signal(interrupted, SIG_DFL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	raise(interrupted);
}

/* ---- requests ---- */

static int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * (int64_t)1000000 + t.tv_nsec / 1000;
}

/* A request and, unless `what` is WHATS, how long it took. */
static int request(struct bench *b, enum what what, const char *method, const char *path,
	const field_json *body, field_json **ret, struct fcm_error *err)
{
	auto_free char *doing = NULL;

	if (interrupted)
		return fcm_fail(err, FCM_CANCELLED, "interrupted");
	if (what != EXEC)
		doing = xprintf("bench %s", what == WHATS ? "snapshot" : names[what]);
	int64_t begun = now_us();
	if (api_change(b->cli->api, method, path, body, doing, ret, err) < 0)
		return -1;
	if (what != WHATS)
		b->us[what][b->count[what]++] = now_us() - begun;
	return 0;
}

static int create(struct bench *b, struct fcm_error *err)
{
	auto_json field_json *body = fj_object(), *vm = NULL;

	fj_set_str(body, "name", b->name);
	fj_set_str(body, "restart", "no");
	if (b->image)
		fj_set_str(body, "image", b->image);
	if (request(b, CREATE, "POST", "/v1/vms", body, &vm, err) < 0)
		return -1;
	if (b->vm == NULL)
		b->vm = STEAL(vm);
	return 0;
}

static int destroy(struct bench *b, const char *name, struct fcm_error *err)
{
	auto_free char *path = api_vm_path(name, "");
	auto_json field_json *answer = NULL;

	return request(b, DESTROY, "DELETE", path, NULL, &answer, err);
}

static int exec_true(struct bench *b, struct fcm_error *err)
{
	auto_free char *path = api_vm_path(b->name, "/exec");
	auto_json field_json *body = fj_object(), *cmd = fj_array(), *answer = NULL;

	fj_append(cmd, fj_str("true"));
	fj_set(body, "cmd", fj_ref(cmd));
	if (request(b, EXEC, "POST", path, body, &answer, err) < 0)
		return -1;
	int64_t status = fj_get_int(answer, "exit", -1);
	return status == 0 ? 0 : fcm_fail(err, FCM_GUEST, "true ended with %" PRId64 " in the VM", status);
}

static int snapshot(struct bench *b, struct fcm_error *err)
{
	auto_free char *path = api_vm_path(b->name, "/snapshots");
	auto_json field_json *body = fj_object(), *answer = NULL;

	fj_set_str(body, "name", b->name);
	return request(b, WHATS, "POST", path, body, &answer, err);
}

static int clone_once(struct bench *b, struct fcm_error *err)
{
	auto_free char *path = api_snapshot_path(b->name, "/clone");
	auto_json field_json *body = fj_object(), *answer = NULL;

	fj_set_str(body, "name", b->clone);
	if (request(b, CLONE, "POST", path, body, &answer, err) < 0)
		return -1;
	return destroy(b, b->clone, err);
}

static int measure(struct bench *b, struct fcm_error *err)
{
	for (uint32_t i = 0; i < b->rounds; i++)
		if ((i && destroy(b, b->name, err) < 0) || create(b, err) < 0)
			return -1;
	for (uint32_t i = 0; i < b->rounds; i++)
		if (exec_true(b, err) < 0)
			return -1;
	if (snapshot(b, err) < 0)
		return -1;
	for (uint32_t i = 0; i < b->rounds; i++)
		if (clone_once(b, err) < 0)
			return -1;
	return destroy(b, b->name, err);
}

/* What is left, after a failure too, goes. */
static void remove_all(struct bench *b)
{
	char *paths[] = {api_vm_path(b->clone, "?force=1"), api_vm_path(b->name, "?force=1"),
		api_snapshot_path(b->name, "")};

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		auto_json field_json *answer = NULL;
		struct fcm_error err = {0};
		if (api_change(b->cli->api, "DELETE", paths[i], NULL, NULL, &answer, &err) < 0 &&
			err.code != FCM_NOT_FOUND && err.code != FCM_NO_DAEMON)
			fprintf(stderr, "fcm: left: %s: %s\n", paths[i], err.msg);
		free(paths[i]);
	}
}

/* ---- what came of it ---- */

static int compare(const void *a_, const void *b_)
{
	const int64_t *a = a_, *b = b_;

	return *a < *b ? -1 : *a > *b;
}

/* Of sorted values the one of nearest rank. */
static int64_t percentile(const int64_t *sorted, size_t n, unsigned percent)
{
	size_t rank = (n * percent + 99) / 100;

	return sorted[rank ? rank - 1 : 0];
}

static field_json *result_of(struct bench *b, enum what what)
{
	size_t n = b->count[what];
	int64_t *us = b->us[what];
	field_json *row = fj_object();

	qsort(us, n, sizeof *us, compare);
	fj_set_str(row, "what", names[what]);
	fj_set_int(row, "count", (int64_t)n);
	fj_set_int(row, "p50_us", percentile(us, n, 50));
	fj_set_int(row, "p95_us", percentile(us, n, 95));
	fj_set_int(row, "min_us", us[0]);
	fj_set_int(row, "max_us", us[n - 1]);
	return row;
}

/* The value of the first line `model name : value` of cpuinfo; the caller's. */
static char *cpu_model(void)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error ignored;

	if (file_read(AT_FDCWD, "/proc/cpuinfo", CPUINFO_MAX, &text, &ignored) < 0 || text.n == 0)
		return xstrdup("");
	const char *line = strstr(text.p, "model name");
	const char *value = line ? strchr(line, ':') : NULL;
	return value ? xprintf("%.*s", (int)strcspn(value + 1, "\n"), value + 1 + strspn(value + 1, " "))
		     : xstrdup("");
}

/* This machine, where the daemon is; else null. */
static field_json *machine(struct api *api)
{
	auto_free char *model = cpu_model();
	struct utsname u;

	if (!api_is_here(api) || uname(&u) < 0)
		return NULL;
	field_json *m = fj_object();
	fj_set_str(m, "cpu", model);
	fj_set_int(m, "cpus", sysconf(_SC_NPROCESSORS_ONLN));
	fj_set_int(m, "memory", sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) >> 20);
	fj_set_str(m, "kernel", u.release);
	return m;
}

static field_json *report_of(struct bench *b, const field_json *info)
{
	static const char *const taken[] = {"image", "cpus", "memory"};
	field_json *report = fj_object(), *results = fj_array();
	_cleanup_(buf_done) struct buf text = {0};

	for (size_t i = 0; i < ARRAY_SIZE(how); i++)
		buf_printf(&text, "%s%s", i ? " " : "", how[i]);
	for (size_t i = 0; i < WHATS; i++)
		fj_append(results, result_of(b, i));
	fj_set(report, "results", results);
	fj_set_int(report, "rounds", b->rounds);
	for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
		fj_set(report, taken[i], fj_ref(fj_get(b->vm, taken[i])));
	fj_set(report, "vmm", fj_ref(fj_get(info, "vmm")));
	fj_set_str(report, "daemon", fj_get_str(info, "version"));
	fj_set_str(report, "client", FCM_VERSION);
	fj_set(report, "machine", machine(b->cli->api));
	fj_set_str(report, "method", text.p);
	return report;
}

/* ---- for people ---- */

static void text_what(const field_json *row, struct buf *b)
{
	buf_str(b, fj_get_str(row, "what"));
}

static void text_count(const field_json *row, struct buf *b)
{
	buf_printf(b, "%" PRId64, fj_get_int(row, "count", 0));
}

static void add_us(const field_json *row, const char *key, struct buf *b)
{
	int64_t us = fj_get_int(row, key, 0);

	if (us >= 1000000)
		buf_printf(b, "%.2f s", (double)us / 1e6);
	else
		buf_printf(b, us < 10000 ? "%.2f ms" : "%.0f ms", (double)us / 1e3);
}

static void text_p50(const field_json *row, struct buf *b)
{
	add_us(row, "p50_us", b);
}

static void text_p95(const field_json *row, struct buf *b)
{
	add_us(row, "p95_us", b);
}

static void text_min(const field_json *row, struct buf *b)
{
	add_us(row, "min_us", b);
}

static void text_max(const field_json *row, struct buf *b)
{
	add_us(row, "max_us", b);
}

static const struct column columns[] = {
	{"what", "WHAT", 0, text_what},
	{"count", "COUNT", COLUMN_RIGHT, text_count},
	{"p50", "P50", COLUMN_RIGHT, text_p50},
	{"p95", "P95", COLUMN_RIGHT, text_p95},
	{"min", "MIN", COLUMN_RIGHT, text_min},
	{"max", "MAX", COLUMN_RIGHT, text_max},
	{0},
};

/* What else one must know of the figures. */
static void print_about(struct cli *cli, const field_json *report)
{
	const field_json *vmm = fj_get(report, "vmm"), *m = fj_get(report, "machine");
	_cleanup_(buf_done) struct buf image = {0}, memory = {0}, cpu = {0};

	out_text(&image, fj_get_str(report, "image"));
	out_mib(&memory, fj_get_int(report, "memory", 0));
	printf("\nVM       %s, %" PRId64 " vCPU, %s\n", image.p, fj_get_int(report, "cpus", 0), memory.p);
	printf("VMM      %s %s, %s\n", fj_get_str(vmm, "driver"), fj_get_str(vmm, "version"),
		fj_get_str(vmm, "accel"));
	printf("daemon   %s at %s, client %s\n", fj_get_str(report, "daemon"), api_place(cli->api),
		FCM_VERSION);
	if (fj_is_object(m)) {
		out_text(&cpu, fj_get_str(m, "cpu"));
		buf_done(&memory);
		out_mib(&memory, fj_get_int(m, "memory", 0));
		printf("machine  %" PRId64 " x %s, %s, Linux %s\n", fj_get_int(m, "cpus", 0), cpu.p, memory.p,
			fj_get_str(m, "kernel"));
	}
	for (size_t i = 0; i < ARRAY_SIZE(how); i++)
		printf("%-9s%s\n", i ? "" : "method", how[i]);
}

static int print(struct cli *cli, const field_json *report, struct fcm_error *err)
{
	if (cli->globals.json) {
		out_json(report);
		return 0;
	}
	if (out_list(cli, columns, fj_get(report, "results"), err) < 0)
		return -1;
	if (!cli->globals.quiet && !cli->globals.no_headings)
		print_about(cli, report);
	return 0;
}

/* Not after a minute of measuring. */
static int check_columns(const struct cli *cli, struct fcm_error *err)
{
	auto_json field_json *none = fj_array();
	auto_free char *table = out_table(cli, columns, none, err);

	return table ? 0 : -1;
}

static int bench(struct bench *b, struct fcm_error *err)
{
	auto_json field_json *info = NULL, *report = NULL;

	if (check_columns(b->cli, err) < 0 || api_get(b->cli->api, "/v1", &info, err) < 0 ||
		signals_begin(err) < 0)
		return -1;
	int r = measure(b, err);
	remove_all(b);
	if (interrupted)
		end_interrupted();
	if (r < 0)
		return -1;
	report = report_of(b, info);
	return print(b->cli, report, err);
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	const struct bench_options *o = options_;
	struct bench *b = xalloc(sizeof *b);

	b->cli = cli;
	b->image = cli->argc ? cli->argv[0] : NULL;
	b->rounds = o->rounds;
	fcm_format(
		b->name, sizeof b->name, "bench-%x", (unsigned)(clock_wall() * 40503) ^ (unsigned)getpid());
	fcm_format(b->clone, sizeof b->clone, "%s-clone", b->name);
	int r = bench(b, err);
	fj_free(b->vm);
	free(b);
	return r;
}

const struct command cmd_bench = {
	.name = "bench",
	.args = "[IMAGE]",
	.summary = "how long create, exec, clone and destroy take here",
	.example = "fcm bench --rounds 20 tiny",
	.details = "It makes VMs of the image one after the other, runs commands in one, clones it,\n"
		   "and removes all of it again, also when it is interrupted. The figures are those\n"
		   "of whole requests, as this client sees them.\n"
		   "Columns for -o: what count p50 p95 min max.",
	.max_args = 1,
	.flags = COMMAND_TABLE,
	.options = options,
	.fields = bench_fields,
	.size = sizeof(struct bench_options),
	.defaults = &defaults,
	.run = run,
};
