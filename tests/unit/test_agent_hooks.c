/* Hooks of fcm-agent: what it runs in a clone. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "images/agent/hooks.h"

static struct fcm_error err;

static char hooks_dir[64];

static int hooks_setup(void **state)
{
	(void)state;
	(void)fcm_format(hooks_dir, sizeof hooks_dir, "/tmp/fcm-agent-test.XXXXXX");
	return mkdtemp(hooks_dir) ? 0 : -1;
}

static int hooks_teardown(void **state)
{
	(void)state;
	return dir_remove(AT_FDCWD, hooks_dir, NULL, &err);
}

static void add_hook(const char *name, mode_t mode, const char *script)
{
	auto_free char *path = xprintf("%s/%s", hooks_dir, name), *text = xprintf("#!/bin/sh\n%s\n", script);

	assert_int_equal(file_write_atomic(AT_FDCWD, path, mode, text, strlen(text), &err), 0);
}

struct ran {
	int status;
	char out[8192], printed[HOOKS_MAX * HOOKS_OUTPUT_MAX];
};

static void read_into(int fd, char *p, size_t size)
{
	size_t n = 0;
	ssize_t k;

	while (n < size - 1 && (k = read(fd, p + n, size - 1 - n)) > 0)
		n += (size_t)k;
	p[n] = '\0';
}

static const struct ran *run_hooks(int64_t timeout_ms)
{
	static struct ran r;
	_cleanup_(strv_done) struct strv env = {0};
	const struct hooks h = {.dir = hooks_dir, .env = &env, .timeout_ms = timeout_ms};
	auto_close int printed = open("/tmp", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	int out[2];

	strv_add(&env, "PATH=/usr/bin:/bin");
	strv_add(&env, "FCM_NAME=twin");
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (pid == 0) {
		dup2(out[1], 1);
		dup2(printed, 2);
		close_range(3, ~0u, 0);
		_exit(hooks_run(&h));
	}
	close(out[1]);
	read_into(out[0], r.out, sizeof r.out);
	close(out[0]);
	assert_int_equal(waitpid(pid, &r.status, 0), pid);
	lseek(printed, 0, SEEK_SET);
	read_into(printed, r.printed, sizeof r.printed);
	return &r;
}

static void hook_arguments(void **state)
{
	static const char all[] = "id=a\0name=b\0ip=1.2.3.4\0old_id=c\0old_name=d\0old_ip=1.2.3.5";
	_cleanup_(buf_done) struct buf env = {0}, bad = {0}, line = {0}, much = {0};
	char text[HOOKS_VALUE_MAX + 2] = "";
	struct hooks h = {0};

	(void)state;
	assert_int_equal(hooks_parse(all, sizeof all, &h, &env, &err), 0);
	assert_int_equal(h.timeout_ms, HOOKS_TIMEOUT_MS);
	const char *s = kv_get(env.p, env.n, "env");
	assert_string_equal(s, "FCM_ID=a");
	for (int i = 0; i < 5; i++)
		s = kv_next(env.p, env.n, "env", s);
	assert_string_equal(s, "FCM_OLD_IP=1.2.3.5");
	assert_int_equal(hooks_parse(all, sizeof all - 8, &h, &bad, &err), -1);
	assert_string_equal(err.field, "old_ip");
	kv_add(&line, "id", "x\ny");
	assert_int_equal(hooks_parse(line.p, line.n, &h, &bad, &err), -1);
	assert_string_equal(err.field, "id");
	memset(text, 'x', sizeof text - 1);
	kv_add(&much, "id", text);
	assert_int_equal(hooks_parse(much.p, much.n, &h, &bad, &err), -1);
	assert_string_equal(err.msg, "id: not a line of at most 255 bytes");
}

static void hook_names(void **state)
{
	static const char *const good[] = {"a", "10-sshd", "A_b"}, *const bad[] = {"", ".", "..", "a.sh",
									   "a~", ".a", "a b", "a/b"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(hooks_name_valid(good[i]));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(hooks_name_valid(bad[i]));
}

/* In their order, each once, with their environment; what isn't one is passed over. */
static void hooks_in_order(void **state)
{
	(void)state;
	add_hook("20-b", 0755, "echo b $FCM_NAME; exit 3");
	add_hook("10-a", 0755, "echo a >&2; cat");
	add_hook("30-c", 0644, "echo c");
	add_hook("40.d", 0755, "echo d");
	add_hook("B", 0755, "echo $0 $#; kill -9 $$");
	auto_free char *dir = xprintf("%s/50-dir", hooks_dir),
		       *want = xprintf("a\nb twin\n%s/B 0\n", hooks_dir);
	assert_int_equal(mkdir(dir, 0755), 0);
	const struct ran *r = run_hooks(10000);
	assert_string_equal(r->printed, want);
	assert_string_equal(r->out, "20-b: exit status 3\nB: ended by signal 9\n");
	assert_int_equal(r->status, 1 << 8);
}

static void hooks_go_well(void **state)
{
	(void)state;
	assert_int_equal(run_hooks(1000)->status, 0); /* there are none */
	add_hook("a", 0755, "sleep 100 & echo here");
	int64_t begun = clock_ms();
	const struct ran *r = run_hooks(20000);
	assert_true(clock_ms() - begun < 10000); /* whom it leaves behind is none of its business */
	assert_string_equal(r->printed, "here\n");
	assert_string_equal(r->out, "");
	assert_int_equal(r->status, 0);
}

static void hooks_that_hang(void **state)
{
	(void)state;
	add_hook("a", 0755, "trap '' TERM; echo here; (sleep 7; touch $(dirname $0)/left) & sleep 100");
	add_hook("b", 0755, "echo next");
	const struct ran *r = run_hooks(2000);
	assert_string_equal(r->printed, "here\nnext\n");
	assert_string_equal(r->out, "a: not done within 2000 ms\n");
	assert_int_equal(r->status, 1 << 8);
	auto_free char *left = xprintf("%s/left", hooks_dir);
	clock_sleep(6000);
	assert_int_equal(access(left, F_OK), -1);
}

static void hooks_that_talk(void **state)
{
	(void)state;
	add_hook("a", 0755, "head -c 9000000 /dev/zero | tr '\\0' x");
	add_hook("b", 0755, "echo next");
	add_hook("c", 0755, "");
	auto_free char *path = xprintf("%s/c", hooks_dir);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, 0755,
				 "\x7f"
				 "ELF",
				 4, &err),
		0);
	const struct ran *r = run_hooks(60000);
	assert_int_equal(strspn(r->printed, "x"), HOOKS_OUTPUT_MAX);
	assert_string_equal(r->printed + HOOKS_OUTPUT_MAX, "next\ncannot be run: Exec format error\n");
	assert_string_equal(r->out, "c: exit status 127\n");
}

static void too_many_hooks(void **state)
{
	(void)state;
	for (int i = 0; i <= HOOKS_MAX; i++) {
		char name[16];
		(void)fcm_format(name, sizeof name, "%d", i);
		add_hook(name, 0755, "echo here");
	}
	const struct ran *r = run_hooks(1000);
	assert_non_null(strstr(r->out, ": more than 64 files, none was run\n"));
	assert_string_equal(r->printed, "");
	assert_int_equal(r->status, 1 << 8);
}

int main(void)
{
#define HOOK(f) cmocka_unit_test_setup_teardown(f, hooks_setup, hooks_teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hook_arguments),
		cmocka_unit_test(hook_names),
		HOOK(hooks_in_order),
		HOOK(hooks_go_well),
		HOOK(hooks_that_hang),
		HOOK(hooks_that_talk),
		HOOK(too_many_hooks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
