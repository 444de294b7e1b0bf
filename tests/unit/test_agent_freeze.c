/* op=freeze of fcm-agent: real processes in a part of this machine's cgroup v2. Needs root. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "tests/unit/agenttest.h"

enum { VIEWS = 8, PATIENCE_MS = 20000, STILL_MS = 150, CHILDREN = 8 };

/* What came on a stream. */
struct view {
	struct buf out, res;
};

struct world {
	struct agenttest side;
	struct view views[VIEWS];
	char mount[200], home[600],
		top[300]; /* of cgroup v2: where it is, our group before, the root of the test */
	pid_t children[CHILDREN];
	size_t n;
	volatile unsigned *counters; /* one of each child */
};

/* ---- the tree ---- */

static void poke(const char *path, const char *text)
{
	struct fcm_error err;

	if (file_poke(path, text, &err) < 0)
		fail_msg("%s", err.msg);
}

#define IN(w, ...)                                                                                           \
	({                                                                                                   \
		static char path_[600];                                                                      \
		size_t n_ = (size_t)snprintf(path_, sizeof path_, "%s/", (w)->top);                          \
		(void)snprintf(path_ + n_, sizeof path_ - n_, __VA_ARGS__);                                  \
		path_;                                                                                       \
	})

static bool find_mount(struct world *w)
{
	FILE *f = fopen("/proc/self/mounts", "re");
	char type[32] = "";

	while (f && strcmp(type, "cgroup2") != 0 && fscanf(f, "%*s %199s %31s %*[^\n]", w->mount, type) == 2)
		;
	if (f)
		fclose(f);
	return strcmp(type, "cgroup2") == 0;
}

static bool find_home(struct world *w)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char line[300];

	while (f && fgets(line, sizeof line, f))
		if (strncmp(line, "0::", 3) == 0)
			(void)snprintf(w->home, sizeof w->home, "%s%.*s/cgroup.procs", w->mount,
				(int)strcspn(line + 3, "\n"), line + 3);
	if (f)
		fclose(f);
	return w->home[0];
}

static int setup(void **state)
{
	struct world *w = xalloc(sizeof *w);

	*state = w;
	if (agenttest_begin(&w->side) < 0)
		return -1;
	w->side.agent.started = true;
	w->counters = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!find_mount(w) || !find_home(w))
		return 0;
	(void)snprintf(w->top, sizeof w->top, "%s/fcm-test-%d", w->mount, (int)getpid());
	if (mkdir(w->top, 0755) < 0)
		return 0;
	poke(IN(w, "cgroup.procs"), "0"); /* with all that we start */
	freeze_init(&w->side.agent.freezer, open(w->top, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	return 0;
}

static void remove_group(const char *path)
{
	for (int i = 0; i < 200 && rmdir(path) < 0 && errno == EBUSY; i++)
		clock_sleep(10);
}

static int teardown(void **state)
{
	struct world *w = *state;
	int root = w->side.agent.freezer.root;

	freeze_thaw(&w->side.agent.freezer, &w->side.agent.channel, "the test ends");
	for (size_t i = 0; i < w->n; i++) {
		kill(-w->children[i], SIGKILL);
		kill(w->children[i], SIGKILL);
		waitpid(w->children[i], NULL, 0);
	}
	agenttest_end(&w->side);
	if (root >= 0) {
		poke(w->home, "0");
		static const char *const names[] = {"a/b", "a", ".hidden", "stopped"};
		for (size_t i = 0; i < ARRAY_SIZE(names); i++)
			remove_group(IN(w, "%s", names[i]));
		remove_group(w->top);
		close(root);
	}
	for (size_t i = 0; i < VIEWS; i++) {
		buf_done(&w->views[i].out);
		buf_done(&w->views[i].res);
	}
	munmap((void *)w->counters, 4096);
	free(w);
	return 0;
}

#define NEED_TREE(w)                                                                                         \
	if ((w)->side.agent.freezer.root < 0)                                                                \
	skip()

/* ---- processes ---- */

/* A process in that group, which calls `work` again and again. Returns its number. */
static size_t add_child(struct world *w, const char *group, void (*work)(void))
{
	size_t i = w->n++;
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0);
		for (;;) {
			w->counters[i]++;
			work();
		}
	}
	assert_true(pid > 0);
	w->children[i] = pid;
	char text[16];
	(void)snprintf(text, sizeof text, "%d", (int)pid);
	poke(IN(w, "%s/cgroup.procs", group), text);
	return i;
}

static void rest(void)
{
	usleep(1000);
}

/* Forks, and its children do so too for a moment. */
static void multiply(void)
{
	signal(SIGCHLD, SIG_IGN);
	if (fork() == 0) {
		if (fork() == 0)
			usleep(2000);
		_exit(0);
	}
	usleep(300);
}

static void make_group(struct world *w, const char *name)
{
	assert_int_equal(mkdir(IN(w, "%s", name), 0755), 0);
}

static int64_t number_in(struct world *w, const char *group, const char *file, const char *key)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error err;

	if (file_read(AT_FDCWD, IN(w, "%s/%s", group, file), 65536, &text, &err) < 0)
		return -1;
	return key ? fcm_line_number(text.p, key) : strtoll(text.p, NULL, 10);
}

static size_t lines_in(struct world *w, const char *group)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error err;
	size_t n = 0;

	assert_int_equal(file_read(AT_FDCWD, IN(w, "%s/cgroup.procs", group), 1 << 20, &text, &err), 0);
	for (size_t i = 0; i < text.n; i++)
		n += text.p[i] == '\n';
	return n;
}

/* ---- the host ---- */

static void take(void *arg, const struct frame *f)
{
	struct world *w = arg;

	if (f->stream == 0)
		return;
	assert_in_range(f->stream, 1, VIEWS - 1);
	struct view *v = &w->views[f->stream];
	assert_int_equal(v->res.n, 0);
	if (f->type == FRAME_DATA && f->channel == FRAME_STDOUT) {
		_cleanup_(buf_done) struct buf credit = {0};
		frame_add_credit(&credit, f->stream, FRAME_STDOUT, f->len);
		agenttest_send(&w->side, &credit);
		buf_add(&v->out, f->payload, f->len);
	}
	if (f->type == FRAME_RES)
		buf_add(&v->res, f->payload, f->len);
}

static void run_for(struct world *w, int64_t ms)
{
	for (int64_t end = clock_in(ms); clock_ms() < end;)
		agenttest_round(&w->side, take, w);
}

static void say(struct world *w, uint32_t stream, enum frame_type type, const char *kv, size_t n)
{
	_cleanup_(buf_done) struct buf b = {0};

	frame_add(&b, stream, type, kv, n);
	agenttest_send(&w->side, &b);
}

#define REQUEST(w, stream, kv) say(w, stream, FRAME_REQ, kv, sizeof(kv))

/* The answer to request `stream`, whose view is empty again then. */
static const char *answer(struct world *w, uint32_t stream, const char *key)
{
	static char value[400];
	struct view *v = &w->views[stream];

	for (int64_t end = clock_in(PATIENCE_MS); v->res.n == 0 && clock_ms() < end;)
		agenttest_round(&w->side, take, w);
	assert_true(v->res.n > 0);
	const char *s = kv_get(v->res.p, v->res.n, key), *error = kv_get(v->res.p, v->res.n, "error");
	(void)fcm_copy(value, sizeof value, s ? s : error ? error : "");
	buf_done(&v->res);
	return value;
}

#define ASK(w, kv, key)                                                                                      \
	({                                                                                                   \
		REQUEST(w, 7, kv);                                                                           \
		answer(w, 7, key);                                                                           \
	})

#define UNTIL(w, condition)                                                                                  \
	do {                                                                                                 \
		int64_t end_ = clock_in(PATIENCE_MS);                                                        \
		while (!(condition) && clock_ms() < end_)                                                    \
			agenttest_round(&(w)->side, take, w);                                                \
		assert_true(condition);                                                                      \
	} while (0)

static void expect_still(struct world *w)
{
	unsigned before[CHILDREN];

	run_for(w, 20);
	for (size_t i = 0; i < w->n; i++)
		before[i] = w->counters[i];
	run_for(w, STILL_MS);
	for (size_t i = 0; i < w->n; i++)
		assert_int_equal(w->counters[i], before[i]);
}

static void expect_moving(struct world *w)
{
	for (size_t i = 0; i < w->n; i++) {
		unsigned before = w->counters[i];
		UNTIL(w, w->counters[i] > before);
	}
}

/* ---- tests ---- */

static void every_process(void **state)
{
	struct world *w = *state;

	NEED_TREE(w);
	make_group(w, "a");
	make_group(w, "a/b");
	make_group(w, ".hidden");
	add_child(w, ".", rest);
	add_child(w, "a", rest);
	add_child(w, "a/b", rest);
	add_child(w, ".hidden", rest);
	expect_moving(w);
	assert_string_equal(ASK(w, "op=freeze\0hold_ms=60000\0sync=1", "ok"), "1");
	expect_still(w);
	assert_int_equal(lines_in(w, "."), 1); /* us */
	assert_string_equal(ASK(w, "op=thaw", "thawed"), "1");
	expect_moving(w);
	assert_int_equal(lines_in(w, "."), 2);
	assert_int_equal(lines_in(w, "a/b"), 1);
	assert_int_equal(number_in(w, "a", "cgroup.freeze", NULL), 0);
	assert_int_equal(access(IN(w, "fcm-freeze"), F_OK), -1);
	assert_string_equal(ASK(w, "op=thaw", "thawed"), "");
}

/* What the guest's user has frozen is theirs. */
static void frozen_before(void **state)
{
	struct world *w = *state;

	NEED_TREE(w);
	make_group(w, "stopped");
	add_child(w, "stopped", rest);
	poke(IN(w, "stopped/cgroup.freeze"), "1");
	assert_string_equal(ASK(w, "op=freeze\0hold_ms=60000", "ok"), "1");
	expect_still(w);
	assert_string_equal(ASK(w, "op=thaw", "thawed"), "1");
	expect_still(w);
	assert_int_equal(number_in(w, "stopped", "cgroup.events", "frozen"), 1);
}

static void processes_that_fork(void **state)
{
	struct world *w = *state;

	NEED_TREE(w);
	for (int i = 0; i < 3; i++)
		add_child(w, ".", multiply);
	for (int i = 0; i < 5; i++) {
		assert_string_equal(ASK(w, "op=freeze\0hold_ms=60000", "ok"), "1");
		assert_int_equal(lines_in(w, "."), 1);
		expect_still(w);
		assert_string_equal(ASK(w, "op=thaw", "thawed"), "1");
		assert_int_equal(access(IN(w, "fcm-freeze"), F_OK), -1);
		expect_moving(w);
	}
}

/* It ends by itself; who asks again has it longer. */
static void a_lease(void **state)
{
	struct world *w = *state;

	NEED_TREE(w);
	add_child(w, ".", rest);
	assert_string_equal(ASK(w, "op=freeze\0hold_ms=1000", "ok"), "1");
	assert_true(freeze_deadline(&w->side.agent.freezer) <= clock_in(1000));
	assert_string_equal(ASK(w, "op=freeze\0hold_ms=6000", "ok"), "1");
	run_for(w, 1200);
	expect_still(w);
	UNTIL(w, !freeze_is_on(&w->side.agent.freezer));
	assert_true(freeze_deadline(&w->side.agent.freezer) == FCM_FOREVER);
	expect_moving(w);
	assert_string_equal(ASK(w, "op=thaw", "thawed"), "");
}

/* A new host finds it frozen. */
static void a_new_session(void **state)
{
	struct world *w = *state;
	static const char hello[] = "magic=FCMA\0version=1\0nonce=n";

	NEED_TREE(w);
	add_child(w, ".", rest);
	assert_string_equal(ASK(w, "op=freeze\0hold_ms=60000", "ok"), "1");
	say(w, 0, FRAME_HELLO, hello, sizeof hello);
	expect_still(w);
	assert_string_equal(ASK(w, "op=thaw", "thawed"), "1");
	expect_moving(w);
	/* it asks while nobody waits any more for the answer that the last one would have got */
	REQUEST(w, 1, "op=freeze\0hold_ms=60000");
	say(w, 0, FRAME_HELLO, hello, sizeof hello);
	REQUEST(w, 2, "op=freeze\0hold_ms=60000");
	assert_string_equal(answer(w, 2, "ok"), "1");
	assert_int_equal(w->views[1].res.n, 0);
	expect_still(w);
}

static void what_does_not_stop(void **state)
{
	struct world *w = *state;

	NEED_TREE(w);
	add_child(w, ".", rest);
	REQUEST(w, 1, "op=freeze\0hold_ms=60000");
	while (!freeze_is_on(&w->side.agent.freezer)) {
		channel_serve(&w->side.agent.channel, POLLIN);
		session_serve(&w->side.agent);
	}
	w->side.agent.freezer.give_up = 0;
	assert_non_null(strstr(answer(w, 1, "error"), "freeze: processes of the group "));
	assert_false(freeze_is_on(&w->side.agent.freezer));
	expect_moving(w);
	assert_int_equal(lines_in(w, "."), 2);
}

static void refusals(void **state)
{
	struct world *w = *state;

	assert_string_equal(ASK(w, "op=freeze", "error"), "hold_ms: 1 to 120000");
	assert_string_equal(ASK(w, "op=freeze\0hold_ms=120001", "error"), "hold_ms: 1 to 120000");
	assert_string_equal(ASK(w, "op=freeze\0hold_ms=0", "error"), "hold_ms: 1 to 120000");
	w->side.agent.started = false;
	assert_string_equal(ASK(w, "op=freeze\0hold_ms=9", "error"), "freeze: not before start");
	w->side.agent.started = true;
	w->side.agent.power.phase = POWER_TERM;
	assert_string_equal(ASK(w, "op=freeze\0hold_ms=9", "error"), "freeze: the machine ends");
	w->side.agent.power.phase = POWER_UP;
	NEED_TREE(w);
	REQUEST(w, 1, "op=freeze\0hold_ms=60000");
	assert_string_equal(
		ASK(w, "op=freeze\0hold_ms=60000", "error"), "freeze: another one isn't answered yet");
	assert_string_equal(answer(w, 1, "ok"), "1");
	assert_string_equal(ASK(w, "op=exec\0arg=true", "error"), "exec: the machine is frozen");
	assert_string_equal(ASK(w, "op=get\0path=/etc", "error"), "get: the machine is frozen");
	assert_string_equal(ASK(w, "op=probe\0mode=tcp\0port=1", "error"), "probe: the machine is frozen");
	assert_string_equal(ASK(w, "op=ping\0echo=x", "echo"), "x");
	REQUEST(w, 1, "op=freeze\0hold_ms=60000");
	REQUEST(w, 7, "op=thaw");
	assert_string_equal(answer(w, 1, "error"), "freeze: the host has ended it");
}

static void no_tree(void **state)
{
	struct world *w = *state;
	int root = w->side.agent.freezer.root;

	w->side.agent.freezer.root = -1;
	assert_string_equal(ASK(w, "op=freeze\0hold_ms=9", "error"), "freeze: there is no cgroup v2 here");
	w->side.agent.freezer.root = root;
}

enum { LINES = 200000 };

static void count_up(struct buf *ret)
{
	for (int i = 1; i <= LINES; i++)
		buf_printf(ret, "%d\n", i);
}

#define COUNT_UP "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); echo $i; done"

/* Of what a program prints nothing is lost, and nothing comes twice. */
static void a_stream(void **state)
{
	struct world *w = *state;
	_cleanup_(buf_done) struct buf want = {0};

	NEED_TREE(w);
	count_up(&want);
	REQUEST(w, 1, "op=exec\0arg=/bin/sh\0arg=-c\0arg=" COUNT_UP);
	for (int i = 0; i < 3; i++) {
		size_t before = w->views[1].out.n;
		UNTIL(w, w->views[1].out.n > before);
		assert_string_equal(ASK(w, "op=freeze\0hold_ms=60000", "ok"), "1");
		run_for(w, 50); /* what is in the pipe */
		before = w->views[1].out.n;
		run_for(w, 100);
		assert_int_equal(w->views[1].out.n, before);
		assert_true(before < want.n);
		assert_string_equal(ASK(w, "op=thaw", "thawed"), "1");
	}
	assert_string_equal(answer(w, 1, "exit"), "0");
	assert_int_equal(w->views[1].out.n, want.n);
	assert_memory_equal(w->views[1].out.p, want.p, want.n);
}

/* A program that has ended has left somebody behind, who prints no more, for it is frozen. */
static void a_silent_stream(void **state)
{
	struct world *w = *state;

	NEED_TREE(w);
	REQUEST(w, 1, "op=exec\0stdin=1\0arg=/bin/sh\0arg=-c\0arg=(" COUNT_UP ") & read x");
	UNTIL(w, w->views[1].out.n > 0);
	assert_string_equal(ASK(w, "op=freeze\0hold_ms=60000", "ok"), "1");
	const struct stream *s = w->side.agent.execs.open[0];
	assert_int_equal(kill(s->pid, SIGKILL), 0);
	UNTIL(w, s->ended);
	run_for(w, 3 * STREAM_QUIET_MS);
	assert_int_equal(w->views[1].res.n, 0);
	assert_string_equal(ASK(w, "op=thaw", "thawed"), "1");
	assert_string_equal(answer(w, 1, "signal"), "9");
}

/* Who is told to end hears it once he can, and has his time then. */
static void a_closed_stream(void **state)
{
	struct world *w = *state;
	_cleanup_(buf_done) struct buf rq = {0}, got = {0};
	char path[] = "/tmp/fcm-agent-test.XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);
	struct fcm_error err;

	NEED_TREE(w);
	assert_true(fd >= 0);
	kv_add(&rq, "op", "exec");
	kv_add(&rq, "arg", "/bin/sh");
	kv_add(&rq, "arg", "-c");
	kv_add(&rq, "arg",
		"exec 2>/dev/null; trap 'echo bye >$OUT; exit' HUP; echo up; while :; do sleep 0.05; done");
	kv_addf(&rq, "env", "OUT=%s", path);
	say(w, 1, FRAME_REQ, rq.p, rq.n);
	UNTIL(w, w->views[1].out.n == 3);
	assert_string_equal(ASK(w, "op=freeze\0hold_ms=60000", "ok"), "1");
	assert_string_equal(ASK(w, "op=close\0stream=1", "ok"), "1");
	run_for(w, EXEC_KILL_MS + 300);
	assert_int_equal(lseek(fd, 0, SEEK_END), 0);
	assert_true(lines_in(w, "fcm-freeze") > 0);
	assert_string_equal(ASK(w, "op=thaw", "thawed"), "1");
	UNTIL(w, lines_in(w, ".") == 1);
	assert_int_equal(file_read(AT_FDCWD, path, 100, &got, &err), 0);
	assert_string_equal(got.p, "bye\n");
	close(fd);
	unlink(path);
}

static void power_thaws(void **state)
{
	struct world *w = *state;

	NEED_TREE(w);
	add_child(w, ".", rest);
	assert_string_equal(ASK(w, "op=freeze\0hold_ms=60000", "ok"), "1");
	assert_string_equal(ASK(w, "op=power\0intent=poweroff\0grace_ms=60000", "ok"), "1");
	assert_false(freeze_is_on(&w->side.agent.freezer));
	expect_moving(w);
}

int main(void)
{
#define WORLD(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		WORLD(every_process),
		WORLD(frozen_before),
		WORLD(processes_that_fork),
		WORLD(a_lease),
		WORLD(a_new_session),
		WORLD(what_does_not_stop),
		WORLD(refusals),
		WORLD(no_tree),
		WORLD(a_stream),
		WORLD(a_silent_stream),
		WORLD(a_closed_stream),
		WORLD(power_thaws),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
