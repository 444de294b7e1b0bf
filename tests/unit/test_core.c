/*
 * common/core: names, sizes, text, kv lists, frames, files, time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/clock.h"
#include "common/core/error.h"
#include "common/core/fileio.h"
#include "common/core/frame.h"
#include "common/core/kv.h"
#include "common/core/names.h"
#include "common/core/signals.h"
#include "common/core/sparse.h"

static void names(void **unused)
{
	static const char *const good[] = {"a", "web", "web-2", "0", "a--b",
		"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk"};
	static const char *const bad[] = {"", "-a", "a-", "A", "a.b", "a/b", "..", "a b", "a\n", "1-2-3-4",
		"64-34-93-45", "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl",
		"w\xc3\xa4", "a_b"};

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(vm_name_valid(good[i]));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(vm_name_valid(bad[i]));
	assert_true(vm_id_valid("8i5agfx2"));
	assert_false(vm_id_valid("8i5agfx"));
	assert_false(vm_id_valid("8I5agfx2"));
	assert_true(dns_name_valid("web.64-34-93-45.sslip.io"));
	assert_false(dns_name_valid("web"));
	assert_false(dns_name_valid("web."));
	assert_false(dns_name_valid("web..io"));
	assert_false(dns_name_valid("web.io {"));
	assert_true(asset_name_valid("base-1.2_x"));
	assert_false(asset_name_valid("..") || asset_name_valid(".a") || asset_name_valid("a/b") ||
		     asset_name_valid(""));
}

/* Two errors that tell their user to do the same are one, or one of them tells the wrong thing. */
static void no_two_errors_share_a_hint(void **unused)
{
	(void)unused;
	for (enum fcm_code a = FCM_OK + 1; a < FCM_CODES; a++)
		for (enum fcm_code b = a + 1; *fcm_code_info(a)->hint && b < FCM_CODES; b++)
			assert_string_not_equal(fcm_code_info(a)->hint, fcm_code_info(b)->hint);
}

static bool taken_until(const char *name, void *arg)
{
	(void)name;
	return --*(int *)arg > 0;
}

static void random_names_are_valid(void **unused)
{
	(void)unused;
	for (int i = 0; i < 200; i++) {
		int tries = i % 12;
		assert_true(vm_name_valid(vm_name_random(taken_until, &tries).s));
		assert_true(vm_id_valid(vm_id_random().s));
	}
}

static void networks(void **unused)
{
	struct ip_net a, b;

	(void)unused;
	assert_true(ip_net_parse("172.16.0.0/24", &a) && ip_net_parse("172.16.0.0/12", &b));
	assert_true(ip_net_overlap(&a, &b) && ip_net_overlap(&b, &a));
	assert_true(ip_net_parse("172.16.1.0/24", &b));
	assert_false(ip_net_overlap(&a, &b));
	assert_true(ip_net_parse("0.0.0.0/0", &b) && ip_net_overlap(&a, &b));
	assert_false(ip_net_parse("172.16.0.1/24", &a) || ip_net_parse("172.16.0.0", &a) ||
		     ip_net_parse("172.16.0.0/33", &a) || ip_net_parse("172.16.0.0/ 8", &a));
}

static void sizes(void **unused)
{
	uint64_t n;

	(void)unused;
	assert_true(fcm_parse_size("512", 1 << 20, &n) && n == 512ull << 20);
	assert_true(fcm_parse_size("2g", 1 << 20, &n) && n == 2ull << 30);
	assert_true(fcm_parse_size("1.5G", 1, &n) && n == 3ull << 29);
	assert_true(fcm_parse_size("0.5k", 1, &n) && n == 512);
	assert_false(fcm_parse_size("", 1, &n) || fcm_parse_size("-1", 1, &n) ||
		     fcm_parse_size("1gb", 1, &n) || fcm_parse_size("99999999999t", 1, &n) ||
		     fcm_parse_size("1e9", 1, &n) || fcm_parse_size(" 1", 1, &n));
}

static void guest_text(void **unused)
{
	char a[] = "ok \x1b[31mred\x1b[0m \xc3\xa4 \xff\xc3 \xe2\x80\xae end\n";

	(void)unused;
	a[fcm_printable(a, strlen(a))] = '\0';
	assert_string_equal(a, "ok ?[31mred?[0m \xc3\xa4 ?? ? end\n");
}

static void quoted(void **unused)
{
	char a[8];

	(void)unused;
	assert_true(fcm_quote(a, sizeof a, "a\tb\nc\x1b"));
	assert_string_equal(a, "a?b?c?");
	assert_false(fcm_quote(a, sizeof a, "123456\xc3\xa4"));
	assert_string_equal(a, "123456?");
}

static void dropped(void **unused)
{
	_cleanup_(buf_done) struct buf b = {0};

	(void)unused;
	buf_drop(&b, 1);
	assert_int_equal(b.n, 0);
	buf_str(&b, "abc");
	buf_drop(&b, 2);
	assert_string_equal(b.p, "c");
	buf_drop(&b, 2); /* more than there is */
	assert_int_equal(b.n, 0);
	assert_string_equal(b.p, "");
}

static void kv_lists(void **unused)
{
	_cleanup_(buf_done) struct buf b = {0};
	size_t n;

	(void)unused;
	kv_add(&b, "op", "file");
	kv_add(&b, "env", "A=1");
	kv_addf(&b, "env", "B=%d", 2);
	kv_end(&b);
	buf_add(&b, "raw\0x", 5);
	assert_string_equal(kv_get(b.p, b.n, "op"), "file");
	const char *v = kv_next(b.p, b.n, "env", NULL);
	assert_string_equal(v, "A=1");
	v = kv_next(b.p, b.n, "env", v);
	assert_string_equal(v, "B=2");
	assert_null(kv_next(b.p, b.n, "env", v));
	assert_null(kv_get(b.p, b.n, "raw"));
	const char *raw = kv_raw(b.p, b.n, &n);
	assert_int_equal(n, 5);
	assert_memory_equal(raw, "raw\0x", 5);
	assert_null(kv_get("op=unterminated", 15, "op"));
	assert_null(kv_raw("a=b\0c", 5, &n));
	assert_null(kv_get(NULL, 0, "op"));
	assert_null(kv_raw(NULL, 0, &n));
}

static void frames(void **unused)
{
	_cleanup_(buf_done) struct buf b = {0};
	struct frame f;

	(void)unused;
	frame_add(&b, 0x01020304, FRAME_REQ, "abc", 3);
	for (size_t i = 0; i < b.n; i++)
		assert_int_equal(frame_parse(b.p, i, &f), 0);
	assert_int_equal(frame_parse(b.p, b.n, &f), (ssize_t)b.n);
	assert_true(f.stream == 0x01020304 && f.len == 3 && f.type == FRAME_REQ);
	b.p[6] = 99;
	assert_int_equal(frame_parse(b.p, b.n, &f), -1);
	assert_int_equal(frame_parse("\0\0\0\0\xff\xff\1\0", 8, &f), -1);
}

static void stream_frames(void **unused)
{
	static const uint8_t bad[][FRAME_HEADER + 4] = {
		{1, 0, 0, 0, 0, 0, FRAME_DATA, 3},   /* no such channel */
		{1, 0, 0, 0, 0, 0, FRAME_REQ, 1},    /* a type without channels */
		{1, 0, 0, 0, 3, 0, FRAME_CREDIT, 1}, /* not a u32 */
		{1, 0, 0, 0, 1, 0, FRAME_END, 1},
	};
	_cleanup_(buf_done) struct buf b = {0};
	struct frame f;

	(void)unused;
	frame_add_data(&b, 7, FRAME_STDERR, "x\0y", 3);
	frame_add_credit(&b, 7, FRAME_STDOUT, 0x89abcdef);
	frame_add_end(&b, 7, FRAME_STDIN);
	buf_drop(&b, (size_t)frame_parse(b.p, b.n, &f));
	assert_true(f.stream == 7 && f.type == FRAME_DATA && f.channel == FRAME_STDERR && f.len == 3);
	ssize_t n = frame_parse(b.p, b.n, &f);
	assert_true(f.type == FRAME_CREDIT && f.channel == FRAME_STDOUT && frame_credit(&f) == 0x89abcdef);
	buf_drop(&b, (size_t)n);
	assert_int_equal(frame_parse(b.p, b.n, &f), (ssize_t)b.n);
	assert_true(f.type == FRAME_END && f.channel == FRAME_STDIN && f.len == 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(frame_parse(bad[i], sizeof bad[i], &f), -1);
}

static void hello_in_rubbish(void **unused)
{
	_cleanup_(buf_done) struct buf b = {0}, hello = {0};
	struct frame f;
	size_t keep = 0;

	(void)unused;
	kv_add(&hello, "magic", FRAME_MAGIC);
	kv_add(&hello, "nonce", "n1");
	buf_add(&b, "\1\0\0\0\7\0\2\0junk half a frame", 23);
	size_t junk = b.n;
	frame_add(&b, 0, FRAME_HELLO, hello.p, hello.n);
	assert_int_equal(frame_find_hello(b.p, b.n, "other", &f, &keep), 0);
	for (size_t i = junk; i < b.n; i++) {
		assert_int_equal(frame_find_hello(b.p, i, "n1", &f, &keep), 0);
		assert_true(keep >= i - junk);
	}
	assert_int_equal(frame_find_hello(b.p, b.n, "n1", &f, &keep), b.n);
}

static void lists(void **unused)
{
	_cleanup_(strv_done) struct strv l = {0};

	(void)unused;
	strv_remove(&l, "a");
	for (const char *s = "abca"; *s; s++)
		strv_addf(&l, "%c", *s);
	strv_remove(&l, "a");
	strv_remove(&l, "x");
	assert_int_equal(l.n, 3);
	assert_true(strv_has(&l, "a") && strv_has(&l, "b") && strv_has(&l, "c"));
	strv_remove(&l, "a");
	assert_int_equal(l.n, 2);
	assert_false(strv_has(&l, "a"));
}

static void files(void **unused)
{
	char dir[] = "/tmp/fcm-core-XXXXXX";
	struct fcm_error err;
	_cleanup_(buf_done) struct buf b = {0};
	uint64_t freed = 0;

	(void)unused;
	assert_non_null(mkdtemp(dir));
	int d = dir_open(AT_FDCWD, dir, &err);
	assert_int_equal(file_write_atomic(d, "a", 0600, "one", 3, &err), 0);
	assert_int_equal(file_write_atomic(d, "a", 0600, "two", 3, &err), 0);
	assert_int_equal(file_read(d, "a", 3, &b, &err), 0);
	assert_string_equal(b.p, "two");
	assert_int_equal(file_replace(d, "a", 0600, "new", 3, &err), 0);
	buf_done(&b);
	assert_int_equal(file_read(d, "a", 3, &b, &err), 0);
	assert_string_equal(b.p, "new");
	struct buf none = {0};
	assert_int_equal(file_read(d, "a", 2, &none, &err), -1);
	assert_int_equal(err.code, FCM_TOO_LARGE);
	assert_int_equal(symlinkat("a", d, "link"), 0);
	assert_int_equal(mkfifoat(d, "fifo", 0600), 0);
	assert_int_equal(file_read(d, "link", 9, &none, &err), -1);
	assert_int_equal(file_read(d, "fifo", 9, &none, &err), -1);
	assert_int_equal(file_read(d, "missing", 9, &none, &err), -1);
	assert_int_equal(err.code, FCM_NOT_FOUND);
	assert_int_equal(mkdirat(d, "sub", 0700), 0);
	assert_int_equal(symlinkat("/etc", d, "sub/away"), 0);
	assert_int_equal(dir_remove(AT_FDCWD, dir, &freed, &err), 0);
	assert_true(freed >= 4096);
	assert_int_equal(access("/etc/passwd", F_OK), 0);
	assert_int_equal(dir_remove(AT_FDCWD, dir, NULL, &err), 0);
	close(d);
}

static void nest(int top, const char *name, int levels)
{
	int fd = openat(top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	while (levels--) {
		assert_int_equal(mkdirat(fd, name, 0700), 0);
		int sub = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(sub >= 0);
		close(fd);
		fd = sub;
	}
	close(fd);
}

static void fill(int top, const char *name, int files)
{
	char file[32];

	assert_int_equal(mkdirat(top, name, 0700), 0);
	int fd = openat(top, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < files; i++) {
		fcm_format(file, sizeof file, "%d", i);
		assert_int_equal(mknodat(fd, file, S_IFREG | 0600, 0), 0);
	}
	close(fd);
}

static void *remove_there(void *dir)
{
	struct fcm_error err;

	return dir_remove(AT_FDCWD, dir, NULL, &err) < 0 ? xstrdup(err.msg) : NULL;
}

/* What a VMM that was taken over could leave in its jail, on a thread such as an operation's (daemon/engine/op.c). */
static void deep_and_full_directories(void **unused)
{
	char dir[] = "/tmp/fcm-core-XXXXXX";
	pthread_attr_t attr;
	pthread_t thread;
	void *error;

	(void)unused;
	assert_non_null(mkdtemp(dir));
	int d = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	nest(d, "a", 5000);
	nest(d, "b", 3);
	fill(d, "a/a/many", 20000);
	fill(d, "b/some", 10);
	close(d);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 256 << 10);
	assert_int_equal(pthread_create(&thread, &attr, remove_there, dir), 0);
	pthread_attr_destroy(&attr);
	pthread_join(thread, &error);
	assert_null(error);
	assert_int_equal(access(dir, F_OK), -1);
}

static void times(void **unused)
{
	int64_t t;

	(void)unused;
	assert_string_equal(clock_rfc3339(1795625293).s, "2026-11-25T16:48:13Z");
	assert_int_equal(clock_parse("2026-11-25T16:48:13Z", &t), 0);
	assert_int_equal(t, 1795625293);
	assert_int_equal(clock_parse("2026-11-25T16:48:13Zx", &t), -1);
	assert_string_equal(clock_span(350).s, "350 ms");
	assert_string_equal(clock_span(2450).s, "2.4 s");
	assert_string_equal(clock_span(41000).s, "41 s");
	assert_string_equal(clock_span(120000).s, "2m");
	static const struct {
		const char *text;
		int64_t seconds; /* -1: none */
	} spans[] = {{"90s", 90}, {"5m", 300}, {"2h", 7200}, {"3d", 259200}, {"1m30s", 90}, {"0s", 0},
		{"", -1}, {"5", -1}, {"m", -1}, {"1m30", -1}, {"-1s", -1}, {"1 s", -1},
		{"9999999999999999s", -1}, {"24855d24855d", -1}};
	for (size_t i = 0; i < ARRAY_SIZE(spans); i++) {
		if (clock_parse_span(spans[i].text, &t) != (spans[i].seconds >= 0))
			fail_msg("'%s'", spans[i].text);
		if (spans[i].seconds >= 0)
			assert_int_equal(t, spans[i].seconds);
	}
	assert_int_equal(clock_in(FCM_FOREVER), FCM_FOREVER);
	assert_int_equal(clock_left(FCM_FOREVER), -1);
	assert_int_equal(clock_left(0), 0);
}

static void signals(void **unused)
{
	static const struct {
		const char *text;
		unsigned number; /* 0: none */
	} cases[] = {{"SIGTERM", 15}, {"quit", 3}, {"9", 9}, {"64", 64}, {"RTMIN", 34}, {"SIGRTMIN+3", 37},
		{"rtmax-1", 63}, {"SIGNOPE", 0}, {"65", 0}, {"0", 0}, {"", 0}, {"SIG", 0}, {"RTMIN+31", 0},
		{"RTMIN-1", 0}, {"RTMAX+1", 0}, {"TERM ", 0}};

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		if (signal_parse(cases[i].text) != cases[i].number)
			fail_msg("'%s' is %u", cases[i].text, signal_parse(cases[i].text));
}

/* Blocks of zeros aren't written wherever a write begins, and what is read is what was meant. */
static void holes(void **unused)
{
	enum { BLOCK = 4096, SIZE = 40 * BLOCK };
	static const size_t pieces[] = {SIZE, BLOCK, 1000, 3 * BLOCK + 1};
	static char want[SIZE], got[SIZE];
	struct stat st;

	(void)unused;
	memset(want + 3 * BLOCK + 7, 'a', BLOCK);
	want[0] = want[20 * BLOCK] = want[SIZE - 1] = 'b';
	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
		char name[] = "/tmp/fcm-holes-XXXXXX", other[] = "/tmp/fcm-holes-XXXXXX";
		auto_close int fd = mkostemp(name, O_CLOEXEC);
		auto_close int copy = mkostemp(other, O_CLOEXEC);
		unlink(name);
		unlink(other);
		for (size_t at = 0; at < SIZE; at += pieces[i])
			assert_int_equal(
				sparse_write(fd, want + at, MIN(pieces[i], SIZE - at), (off_t)at), 0);
		assert_int_equal(pread(fd, got, SIZE, 0), SIZE);
		assert_memory_equal(got, want, SIZE);
		assert_int_equal(fstat(fd, &st), 0);
		if (pieces[i] % BLOCK == 0)
			assert_in_range(st.st_blocks * 512, 0, 5 * BLOCK);
		assert_int_equal(sparse_copy_range(fd, 0, copy, 5, SIZE), 0);
		assert_int_equal(pread(copy, got, SIZE, 0), SIZE);
		assert_int_equal(got[0], 0);
		assert_memory_equal(got + 5, want + 5, SIZE - 5);
		assert_int_equal(sparse_copy_range(fd, 0, copy, SIZE - 10, SIZE + 1), -1);
		assert_int_equal(errno, EIO);
	}
}

static void errors(void **unused)
{
	struct fcm_error err;

	(void)unused;
	for (enum fcm_code c = FCM_OK + 1; c < FCM_CODES; c++) {
		assert_int_equal(fcm_code_from_wire(fcm_code_info(c)->wire), c);
		assert_true(fcm_code_info(c)->http >= 400 && fcm_code_info(c)->exit_status > 0);
	}
	fcm_fail(&err, FCM_NOT_FOUND, "no vm '%s'", "web");
	fcm_wrap(&err, "start");
	assert_string_equal(err.msg, "start: no vm 'web'");
	errno = ENOSPC;
	fcm_fail_errno(&err, "write");
	assert_int_equal(err.code, FCM_NO_SPACE);
	for (int i = 0; i < 20; i++)
		fcm_wrap(&err, "%0150d", i);
	assert_true(strlen(err.msg) < sizeof err.msg);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(no_two_errors_share_a_hint),
		cmocka_unit_test(random_names_are_valid),
		cmocka_unit_test(networks),
		cmocka_unit_test(sizes),
		cmocka_unit_test(guest_text),
		cmocka_unit_test(quoted),
		cmocka_unit_test(dropped),
		cmocka_unit_test(kv_lists),
		cmocka_unit_test(frames),
		cmocka_unit_test(stream_frames),
		cmocka_unit_test(hello_in_rubbish),
		cmocka_unit_test(lists),
		cmocka_unit_test(files),
		cmocka_unit_test(deep_and_full_directories),
		cmocka_unit_test(holes),
		cmocka_unit_test(times),
		cmocka_unit_test(signals),
		cmocka_unit_test(errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
