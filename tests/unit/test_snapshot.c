/* Snapshots on the disk, in a directory of our own; and which of them can go on where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "common/crypt.h"
#include "daemon/store/snapshot.h"

static char top[] = "/tmp/fcm-snapshot-XXXXXX";
static int top_fd;
static const struct vm_id id = {"8i5agfx2"};

static int set_up(void **state)
{
	struct fcm_error err;

	(void)state;
	crypt_init();
	if (mkdtemp(top) == NULL || (top_fd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		return -1;
	return snapshots_init(top_fd, &err);
}

static int tear_down(void **state)
{
	struct fcm_error err;

	(void)state;
	close(top_fd);
	int r = dir_remove(AT_FDCWD, top, NULL, &err);
	strcpy(top + sizeof top - 7, "XXXXXX");
	return r;
}

static void write_at(int dirfd, const char *name, off_t at, const char *text)
{
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, text, strlen(text), at), strlen(text));
	close(fd);
}

static void fill(struct snapshot *s)
{
	struct vm_view *v = &s->vm;

	fcm_copy(s->id, sizeof s->id, id.s);
	fcm_copy(s->name, sizeof s->name, "warm");
	fcm_copy(s->machine.vmm, sizeof s->machine.vmm, "firecracker");
	s->created = 1795712400;
	s->memory = s->frozen = true;
	fcm_copy(v->id, sizeof v->id, "aaaaaaaa");
	fcm_copy(v->name, sizeof v->name, "web");
	v->ip.s_addr = htonl(0xac100032);
	v->spec.vcpus = 1;
	v->spec.mem_mib = 128;
	v->spec.disk_mib = 64;
	fcm_copy(v->spec.image, sizeof v->spec.image, "tiny");
	fcm_copy(v->spec.kernel, sizeof v->spec.kernel, "default");
	strv_add(&v->spec.env, "SECRET=x");
}

/* Make one with a disk and a state. */
static int make(void)
{
	struct snapshot s = {0};
	struct fcm_error err;
	int fd = snapshots_begin(&id, &err);

	assert_true(fd >= 0);
	fill(&s);
	write_at(fd, "disk", 1 << 20, "what the guest wrote");
	write_at(fd, "state", 0, "devices");
	assert_int_equal(snapshot_seal(fd, &s, &err), 0);
	snapshot_done(&s);
	return fd;
}

/* It loads as long as nobody touches it. */
static void one_that_passes(void **unused)
{
	_cleanup_(snapshot_done) struct snapshot read = {0};
	struct snapshot s = {0};
	struct fcm_error err;
	auto_close int fd = snapshots_begin(&id, &err);

	(void)unused;
	assert_true(fd >= 0);
	fill(&s);
	write_at(fd, "disk", 1 << 20, "what the guest wrote");
	assert_int_equal(snapshot_seal_passing(fd, &s, &err), 0);
	snapshot_done(&s);
	assert_int_equal(snapshot_read(fd, &read, &err), 0);
	assert_int_equal(snapshot_check(fd, &read, false, &err), 0);
	write_at(fd, "disk", 1 << 20, "what the guest wrote");
	assert_int_equal(snapshot_check(fd, &read, false, &err), -1);
	assert_int_equal(err.code, FCM_CONFIG);
	assert_int_equal(snapshots_remove(&id, NULL, &err), 0);
}

static void becomes_visible_whole(void **unused)
{
	_cleanup_(strv_done) struct strv ids = {0};
	struct fcm_error err;
	uint64_t freed = 0;

	(void)unused;
	int fd = make();
	assert_int_equal(snapshots_list(&ids, &err), 0);
	assert_int_equal(ids.n, 0);
	assert_int_equal(snapshots_open(&id, &err), -1);
	assert_int_equal(err.code, FCM_NOT_FOUND);
	assert_int_equal(snapshots_publish(&id, &err), 0);
	assert_int_equal(snapshots_list(&ids, &err), 0);
	assert_int_equal(ids.n, 1);
	close(fd);

	struct snapshot s;
	fd = snapshots_open(&id, &err);
	assert_int_equal(snapshot_read(fd, &s, &err), 0);
	assert_string_equal(s.name, "warm");
	assert_string_equal(s.vm.spec.env.v[0], "SECRET=x");
	assert_string_equal(s.machine.vmm, "firecracker");
	assert_int_equal(s.n_files, 2);
	assert_string_equal(s.files[0].name, "disk");
	assert_int_equal(s.files[0].size, (1 << 20) + 20);
	assert_int_equal(snapshot_check(fd, &s, false, &err), 0);
	auto_json field_json *shown = snapshot_json(&s, false);
	auto_free char *text = fj_print(shown, false);
	assert_null(strstr(text, "SECRET=x"));
	snapshot_done(&s);
	close(fd);

	assert_int_equal(snapshots_remove(&id, &freed, &err), 0);
	assert_true(freed > 0);
	assert_int_equal(snapshots_remove(&id, NULL, &err), 0);
}

static void half_ones_are_swept(void **unused)
{
	struct fcm_error err;
	struct stat st;

	(void)unused;
	close(make());
	assert_int_equal(fstatat(top_fd, "snapshots/.8i5agfx2", &st, 0), 0);
	assert_int_equal(snapshots_init(top_fd, &err), 0);
	assert_int_equal(fstatat(top_fd, "snapshots/.8i5agfx2", &st, 0), -1);
}

static void changes_are_seen(void **unused)
{
	const struct timespec now[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_NOW}};
	struct fcm_error err;
	struct snapshot s;
	int fd = make();

	(void)unused;
	assert_int_equal(snapshot_read(fd, &s, &err), 0);
	/* another time alone is none */
	assert_int_equal(utimensat(fd, "disk", now, 0), 0);
	assert_int_equal(snapshot_check(fd, &s, false, &err), 0);
	write_at(fd, "disk", (1 << 20) + 3, "X");
	assert_int_equal(snapshot_check(fd, &s, false, &err), -1);
	assert_int_equal(err.code, FCM_CONFIG);
	assert_non_null(strstr(err.msg, "'disk' of the snapshot has been changed"));
	assert_int_equal(snapshot_check(fd, &s, true, &err), 0);
	assert_int_equal(unlinkat(fd, "state", 0), 0);
	assert_int_equal(snapshot_check(fd, &s, true, &err), -1);
	snapshot_done(&s);
	close(fd);
}

static void foreign_files_are_refused(void **unused)
{
	struct snapshot s = {0};
	struct fcm_error err;
	int fd = make();

	(void)unused;
	fill(&s);
	write_at(fd, "passwd", 0, "x");
	assert_int_equal(snapshot_seal(fd, &s, &err), -1);
	unlinkat(fd, "passwd", 0);
	assert_int_equal(symlinkat("/etc/passwd", fd, "memory"), 0);
	assert_int_equal(snapshot_seal(fd, &s, &err), -1);
	snapshot_done(&s);
	close(fd);
}

static void broken_ones_are_refused(void **unused)
{
	static const char *const texts[] = {"", "{", "[]", "{\"schema\":1}",
		"{\"schema\":2,\"id\":\"8i5agfx2\"}",
		"{\"schema\":1,\"id\":\"8i5agfx2\",\"vm\":{},\"files\":[]}"};
	struct fcm_error err;
	struct snapshot s;

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		write_at(top_fd, SNAPSHOT_MANIFEST, 0, texts[i]);
		assert_int_equal(snapshot_read(top_fd, &s, &err), -1);
		assert_int_equal(err.code, FCM_CONFIG);
		unlinkat(top_fd, SNAPSHOT_MANIFEST, 0);
	}
}

/* What comes from elsewhere says what it likes of its files. */
static void bad_lists_are_refused(void **unused)
{
#define SUM "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	static const struct {
		const char *files, *why;
	} rows[] = {
		{"{\"name\":\"disk\",\"size\":1,\"sum\":\"" SUM
		 "\"},{\"name\":\"disk\",\"size\":1,\"sum\":\"" SUM "\"}",
			"'disk' is listed twice"},
		{"{\"name\":\"disk\",\"size\":1,\"sum\":\"12\"}", "a sum is 64 of"},
		{"{\"name\":\"disk\",\"size\":1,\"sum\":\"G"
		 "123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"}",
			"a sum is 64 of"},
		{"{\"name\":\"disk\",\"size\":-1,\"sum\":\"" SUM "\"}", "size"},
		{"{\"name\":\"../disk\",\"size\":1,\"sum\":\"" SUM "\"}", "none of a snapshot"},
		{"{\"name\":\"snapshot.json\",\"size\":1,\"sum\":\"" SUM "\"}", "none of a snapshot"},
	};
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error err;
	struct snapshot s;
	int fd = make();

	(void)unused;
	assert_int_equal(file_read(fd, SNAPSHOT_MANIFEST, 1 << 20, &text, &err), 0);
	auto_free char *good = xprintf("%.*s", (int)text.n, text.p);
	char *list = strstr(good, "\"files\"");
	assert_non_null(list);
	*list = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		auto_free char *bad = xprintf("%s\"files\":[%s]}", good, rows[i].files);
		write_at(top_fd, SNAPSHOT_MANIFEST, 0, bad);
		assert_int_equal(snapshot_read(top_fd, &s, &err), -1);
		assert_non_null(strstr(err.msg, rows[i].why));
		unlinkat(top_fd, SNAPSHOT_MANIFEST, 0);
	}
	close(fd);
}

/* An author's word of size and time is no proof. */
static void sealed_only_as_said(void **unused)
{
	struct fcm_error err;
	struct snapshot s;
	int fd = make();

	(void)unused;
	assert_int_equal(snapshot_read(fd, &s, &err), 0);
	assert_int_equal(snapshot_seal_same(fd, &s, &err), 0);
	s.files[0].sum[5] ^= 1;
	assert_int_equal(snapshot_seal_same(fd, &s, &err), -1);
	assert_non_null(strstr(err.msg, "'disk' has another sum"));
	s.files[1].size++;
	assert_int_equal(snapshot_seal_same(fd, &s, &err), -1);
	assert_non_null(strstr(err.msg, "'state' has another size"));
	s.n_files = 1;
	assert_int_equal(snapshot_seal_same(fd, &s, &err), -1);
	assert_non_null(strstr(err.msg, "isn't listed"));
	snapshot_done(&s);
	close(fd);
}

static void sum_of(const char *name, char ret[65])
{
	int fd = openat(top_fd, name, O_RDONLY | O_CLOEXEC);
	struct fcm_error err;

	assert_int_equal(snapshot_sum(fd, ret, &err), 0);
	close(fd);
}

/* Holes and written zeros are the same; where the bytes stand isn't. */
static void sums(void **unused)
{
	static const char zeros[200000];
	char holes[65], written[65], moved[65], empty[65], hole[65];

	(void)unused;
	write_at(top_fd, "holes", 150000, "data");
	int fd = openat(top_fd, "written", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, zeros, 150000), 150000);
	assert_int_equal(write(fd, "data", 4), 4);
	close(fd);
	write_at(top_fd, "moved", 250000, "data");
	sum_of("holes", holes);
	sum_of("written", written);
	sum_of("moved", moved);
	assert_string_equal(holes, written);
	assert_string_not_equal(holes, moved);
	write_at(top_fd, "empty", 0, "");
	sum_of("empty", empty);
	fd = openat(top_fd, "hole", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
	sum_of("hole", hole);
	assert_string_equal(empty, hole);
}

static void fits(void **unused)
{
	const struct snapshot_machine here = {"firecracker", "1.12.1", "kvm", "EPYC", "abc"};
	struct snapshot_machine other;
	struct fcm_error err;

	(void)unused;
	assert_int_equal(snapshot_fits(&here, &here, &err), 0);
	other = here;
	strcpy(other.vmm_version, "1.12.9-dev");
	assert_int_equal(snapshot_fits(&other, &here, &err), 0);
	strcpy(other.vmm_version, "1.1");
	assert_int_equal(snapshot_fits(&other, &here, &err), -1);
	assert_int_equal(err.code, FCM_WRONG_STATE);
	assert_non_null(strstr(err.msg, "another version of the VMM: '1.1', and here it is '1.12.1'"));
	strcpy(other.vmm_version, "1.13.0");
	assert_int_equal(snapshot_fits(&other, &here, &err), -1);
	other = here;
	strcpy(other.cpu, "Xeon");
	assert_int_equal(snapshot_fits(&other, &here, &err), -1);
	assert_non_null(strstr(err.msg, "another CPU: 'Xeon'"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_that_passes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(becomes_visible_whole, set_up, tear_down),
		cmocka_unit_test_setup_teardown(half_ones_are_swept, set_up, tear_down),
		cmocka_unit_test_setup_teardown(changes_are_seen, set_up, tear_down),
		cmocka_unit_test_setup_teardown(foreign_files_are_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(broken_ones_are_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(bad_lists_are_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(sealed_only_as_said, set_up, tear_down),
		cmocka_unit_test_setup_teardown(sums, set_up, tear_down),
		cmocka_unit_test(fits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
