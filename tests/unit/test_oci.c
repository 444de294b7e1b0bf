/*
 * daemon/oci: the daemon's side of a job, against programs that play fcm-oci.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/core/kv.h"
#include "daemon/oci/job.h"

/* Python speaks for the child: what it sends is what follows. */
static char program[] = "/tmp/fcm-oci-test-XXXXXX";

static void write_program(const char *body)
{
	static const char head[] = "#!/usr/bin/python3\n"
				   "import os, socket, time\n"
				   "s = socket.socket(fileno=3)\n"
				   "plan = s.recv(65536)\n";
	int fd = open(program, O_WRONLY | O_TRUNC | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, head, sizeof head - 1), sizeof head - 1);
	assert_int_equal(write(fd, body, strlen(body)), strlen(body));
	close(fd);
}

static int make(void **state)
{
	int fd = mkstemp(program);

	(void)state;
	assert_true(fd >= 0);
	fchmod(fd, 0755);
	close(fd);
	return 0;
}

static int clean(void **state)
{
	(void)state;
	unlink(program);
	return 0;
}

static char heard[256];

static void note_progress(void *arg, const char *what, const char *id, uint64_t current, uint64_t total)
{
	(void)arg;
	fcm_format(heard, sizeof heard, "%s %s %llu/%llu", what, id, (unsigned long long)current,
		(unsigned long long)total);
}

static bool at_once(void *arg)
{
	return ++*(int *)arg > 1;
}

static struct oci_spec spec(void)
{
	return (struct oci_spec){.program = program,
		.uid = 65534,
		.job = "merge",
		.dir_fd = -1,
		.layers_fd = -1,
		.in_fd = -1,
		.out_fd = -1,
		.progress = note_progress};
}

static void good(void **unused)
{
	_cleanup_(buf_done) struct buf results = {0};
	struct oci_spec s = spec();
	struct fcm_error err = {0};

	(void)unused;
	write_program("assert plan == b'job=merge\\0uid=65534\\0', plan\n"
		      "s.send(b'progress=a\\x1bb\\0id=x\\0current=5\\0total=9\\0')\n"
		      "s.send(b'ok=1\\0size=7\\0')\n");
	assert_int_equal(oci_run_job(&s, &results, &err), 0);
	assert_int_equal(kv_i64(results.p, results.n, "size", 0, 9, 0), 7);
	assert_null(strchr(heard, 27));
	assert_non_null(strstr(heard, "x 5/9"));
}

static void bad(void **unused)
{
	static const struct {
		const char *body;
		enum fcm_code code;
		const char *msg, *field, *hint;
	} rows[] = {
		{"s.send(b'error=no\\x1b room\\0code=no_space\\0field=image\\0hint=try\\0')\n", FCM_NO_SPACE,
			" room", "image", "try"},
		{"s.send(b'error=what\\0code=nonsense\\0')\n", FCM_INTERNAL, "what", "", NULL},
		{"", FCM_HOST, "in the middle of merge", "", NULL},
		{"s.send(b'garbage')\n", FCM_HOST, "in the middle of merge", "", NULL},
		{"s.send(b'')\n", FCM_HOST, "in the middle of merge", "", NULL},
		{"os.kill(os.getpid(), 9)\n", FCM_HOST, "in the middle of merge", "", NULL},
	};
	struct fcm_error err;
	struct oci_spec s = spec();

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		write_program(rows[i].body);
		assert_int_equal(oci_run_job(&s, NULL, &err), -1);
		assert_int_equal(err.code, rows[i].code);
		assert_non_null(strstr(err.msg, rows[i].msg));
		assert_string_equal(err.field, rows[i].field);
		if (rows[i].hint)
			assert_string_equal(err.hint, rows[i].hint);
	}
}

static void cancelled(void **unused)
{
	struct oci_spec s = spec();
	struct fcm_error err;
	int asked = 0;

	(void)unused;
	s.cancelled = at_once;
	s.arg = &asked;
	write_program("time.sleep(60)\n");
	assert_int_equal(oci_run_job(&s, NULL, &err), -1);
	assert_int_equal(err.code, FCM_CANCELLED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good),
		cmocka_unit_test(bad),
		cmocka_unit_test(cancelled),
	};

	return cmocka_run_group_tests(tests, make, clean);
}
