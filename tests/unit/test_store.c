/* The store, in a directory of our own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "common/crypt.h"
#include "daemon/store/store.h"

enum { UID = 64123 };

static char top[] = "/tmp/fcm-store-XXXXXX";
static char *state_dir, *run_dir;
static const struct vm_id id = {"8i5agfx2"};

static uid_t owner(void)
{
	return geteuid() == 0 ? UID : geteuid();
}

static int set_up(void **state)
{
	struct fcm_error err;

	(void)state;
	if (mkdtemp(top) == NULL)
		return -1;
	state_dir = xprintf("%s/a/state", top);
	run_dir = xprintf("%s/run", top);
	if (store_init(state_dir, run_dir, &err) < 0 || store_vm_make(&id, owner(), &err) < 0) {
		print_error("%s\n", err.msg);
		return -1;
	}
	return 0;
}

static int tear_down(void **state)
{
	struct fcm_error err;

	(void)state;
	store_done();
	free(state_dir);
	free(run_dir);
	int r = dir_remove(AT_FDCWD, top, NULL, &err);
	strcpy(top + sizeof top - 7, "XXXXXX");
	return r;
}

static void view(struct vm_view *v)
{
	*v = (struct vm_view){.name = "web",
		.state = VM_RUNNING,
		.desired = WANT_RUNNING,
		.uid = UID,
		.spec = {.vcpus = 1, .mem_mib = 512, .disk_mib = 8192, .image = "base", .kernel = "default"}};
	fcm_copy(v->id, sizeof v->id, id.s);
	inet_pton(AF_INET, "172.16.0.50", &v->ip);
	strv_add(&v->spec.env, "TOKEN=hunter2\ttab");
}

static void save(void)
{
	struct fcm_error err;
	struct vm_view v;

	view(&v);
	assert_int_equal(store_vm_save(&v, &err), 0);
	field_done(vm_view_fields, &v);
}

static char *config_path(void)
{
	return xprintf("%s/%s/config.json", state_dir, id.s);
}

/* Loading fails with this code and words, and leaves the result alone. */
static void broken(enum fcm_code code, const char *msg)
{
	struct fcm_error err = {0};
	struct vm_view v = {.id = "before"};

	assert_int_equal(store_vm_load(&id, &v, &err), -1);
	if (err.code != code || strstr(err.msg, msg) == NULL)
		fail_msg("%s (code %d)", err.msg, err.code);
	assert_string_equal(v.id, "before");
}

static void put_config(const char *text, size_t n)
{
	struct fcm_error err;
	auto_free char *path = config_path();

	assert_int_equal(file_write_atomic(AT_FDCWD, path, 0600, text, n, &err), 0);
}

static unsigned mode_of(const char *fmt_below, uid_t *ret_uid)
{
	struct stat st;
	auto_free char *path = xprintf("%s/%s", state_dir, fmt_below);

	assert_int_equal(lstat(path, &st), 0);
	*ret_uid = st.st_uid;
	return st.st_mode;
}

static void test_layout(void **state)
{
	struct fcm_error err;
	uid_t uid;

	(void)state;
	mode_t old = umask(077);
	assert_int_equal(store_vm_make(&id, owner(), &err), 0); /* again: fine */
	umask(old);
	assert_int_equal(mode_of("", &uid), S_IFDIR | 0711);
	assert_int_equal(mode_of("8i5agfx2", &uid), S_IFDIR | 0711);
	assert_int_equal(uid, geteuid());
	assert_int_equal(mode_of("8i5agfx2/jail", &uid), S_IFDIR | 0755);
	assert_int_equal(uid, geteuid());
	assert_int_equal(mode_of("8i5agfx2/jail/run", &uid), S_IFDIR | 0700);
	assert_int_equal(uid, owner());
	save();
	assert_int_equal(mode_of("8i5agfx2/config.json", &uid), S_IFREG | 0600);
	assert_true(store_writable());
}

static void test_make_follows_no_link(void **state)
{
	struct fcm_error err;
	struct stat st;
	auto_free char *jail = xprintf("%s/%s/jail", state_dir, id.s);

	(void)state;
	assert_int_equal(dir_remove(AT_FDCWD, jail, NULL, &err), 0);
	assert_int_equal(symlink("/", jail), 0);
	assert_int_equal(store_vm_make(&id, owner(), &err), -1);
	assert_int_equal(stat("/", &st), 0);
	assert_int_equal(st.st_uid, 0);
}

static void test_lock(void **state)
{
	struct fcm_error err = {0};

	(void)state;
	int fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_SH | LOCK_NB), -1);
	close(fd);
	store_done();
	fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* now somebody else has it */
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
	assert_int_equal(store_init(state_dir, run_dir, &err), -1);
	assert_int_equal(err.code, FCM_WRONG_STATE);
	assert_non_null(strstr(err.msg, "another fcmd"));
	close(fd);
	assert_int_equal(store_init(state_dir, run_dir, &err), 0);
}

static void test_directory_is_a_link(void **state)
{
	struct fcm_error err = {0};
	auto_free char *link = xprintf("%s/link", top);

	(void)state;
	store_done();
	assert_int_equal(symlink(state_dir, link), 0);
	assert_int_equal(store_init(link, run_dir, &err), -1);
	assert_non_null(strstr(err.hint, "real directory"));
	if (geteuid() == 0) {
		assert_int_equal(chown(state_dir, UID, UID), 0);
		assert_int_equal(store_init(state_dir, run_dir, &err), -1);
		assert_int_equal(err.code, FCM_CONFIG);
	}
}

static void test_round_trip(void **state)
{
	struct fcm_error err = {0};
	struct vm_view v;

	(void)state;
	save();
	if (store_vm_load(&id, &v, &err) < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(v.spec.env.v[0], "TOKEN=hunter2\ttab");
	assert_int_equal(v.schema, STORE_SCHEMA);
	assert_int_equal(v.uid, UID);
	field_done(vm_view_fields, &v);
}

static void test_broken_config(void **state)
{
	_cleanup_(buf_done) struct buf good = {0};
	struct fcm_error err;
	auto_free char *path = config_path();

	(void)state;
	broken(FCM_NOT_FOUND, "no such file");
	save();
	assert_int_equal(file_read(AT_FDCWD, path, 65536, &good, &err), 0);
	for (size_t n = 0; n + 2 < good.n;
		n += 7) { /* cut anywhere (the last two bytes are "}" and what is before) */
		put_config(good.p, n);
		broken(FCM_CONFIG, "config.json of 8i5agfx2: ");
	}
	put_config("\xff\xfe\x00garbage", 10);
	broken(FCM_CONFIG, "bad JSON");
	put_config("{}", 2);
	broken(FCM_CONFIG, "no schema");
	put_config("{\"schema\":2,\"state\":\"dreaming\"}", 31);
	broken(FCM_CONFIG, "schema 2 is newer than this fcmd");
	put_config("{\"schema\":1}", 12);
	broken(FCM_CONFIG, "is missing");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0); /* must not block */
	broken(FCM_CONFIG, "not a regular file");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	broken(FCM_CONFIG, "config.json");
	char *big = xalloc(2 << 20);
	memset(big, ' ', 2 << 20);
	put_config(big, 2 << 20);
	free(big);
	broken(FCM_CONFIG, "larger than");
}

/* Each of these is well-formed, and would start something else than what was asked for. */
static void test_config_that_lies(void **state)
{
	static const struct {
		const char *from, *to, *msg;
	} lies[] = {
		{"\"8i5agfx2\"", "\"8i5agfx3\"", "it is that of 8i5agfx3"},
		{"\"uid\": 64123", "\"uid\": 0", "no uid"},
		{"\"172.16.0.50\"", "null", "no address"},
		{"\"cpus\": 1", "\"cpus\": 0", "cpus: 0 is outside 1..32"},
		{"\"cpus\": 1", "\"cpux\": 1", "cpus: is missing"},
		{"\"base\"", "\"../x\"", "image: '../x' is no reference"},
		{"\"web\"", "\"..\"", "name: a name is"},
	};
	_cleanup_(buf_done) struct buf good = {0};
	struct fcm_error err;
	auto_free char *path = config_path();

	(void)state;
	save();
	assert_int_equal(file_read(AT_FDCWD, path, 65536, &good, &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		char *at = strstr(good.p, lies[i].from);
		assert_non_null(at);
		auto_free char *text = xprintf(
			"%.*s%s%s", (int)(at - good.p), good.p, lies[i].to, at + strlen(lies[i].from));
		put_config(text, strlen(text));
		broken(FCM_CONFIG, lies[i].msg);
	}
}

static void test_list_and_remove(void **state)
{
	_cleanup_(strv_done) struct strv ids = {0};
	static const struct vm_id other = {"00000000"};
	auto_free char *file = xprintf("%s/notadir1", state_dir), *dir = xprintf("%s/templates", state_dir);
	struct fcm_error err;
	uint64_t freed = 0;

	(void)state;
	save();
	assert_int_equal(store_vm_make(&other, owner(), &err), 0);
	assert_int_equal(mkdir(dir, 0700), 0);
	assert_int_equal(file_write_atomic(AT_FDCWD, file, 0600, "", 0, &err), 0);
	assert_int_equal(store_vm_list(&ids, &err), 0);
	assert_int_equal(ids.n, 2);
	assert_string_equal(ids.v[0], "00000000");
	assert_int_equal(store_vm_remove(&id, &freed, &err), 0);
	assert_true(freed > 0);
	assert_int_equal(store_vm_remove(&id, NULL, &err), 0);
	assert_int_equal(store_vm_open(&id, &err), -1);
	assert_int_equal(err.code, FCM_NOT_FOUND);
}

static void test_sweep(void **state)
{
	auto_free char *temp = xprintf("%s/%s/config.json.0123abcd.tmp", state_dir, id.s);
	auto_free char *disk = xprintf("%s/%s/rootfs.img.tmp", state_dir, id.s);
	auto_free char *saved = xprintf("%s/%s/saved.new", state_dir, id.s);
	auto_free char *memory = xprintf("%s/memory", saved);
	auto_free char *mine = xprintf("%s/%s/notes.txt", state_dir, id.s);
	struct fcm_error err;

	(void)state;
	close(open(temp, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	close(open(disk, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	assert_int_equal(mkdir(saved, 0700), 0);
	close(open(memory, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	close(open(mine, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	store_done();
	assert_int_equal(store_init(state_dir, run_dir, &err), 0);
	assert_int_equal(access(temp, F_OK), -1);
	assert_int_equal(access(disk, F_OK), -1);
	assert_int_equal(access(saved, F_OK), -1);
	assert_int_equal(access(mine, F_OK), 0);
}

static void test_hostkey(void **state)
{
	uint8_t key[STORE_HOSTKEY], seen[STORE_HOSTKEY];
	auto_free char *path = xprintf("%s/%s/hostkey", state_dir, id.s);
	struct fcm_error err;

	(void)state;
	crypt_ed25519(key);
	assert_int_equal(store_hostkey_load(&id, seen, &err), -1);
	assert_int_equal(err.code, FCM_NOT_FOUND);
	assert_int_equal(store_hostkey_save(&id, key, &err), 0);
	assert_int_equal(store_hostkey_load(&id, seen, &err), 0);
	assert_memory_equal(key, seen, sizeof key);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, 0600, key, 63, &err), 0);
	assert_int_equal(store_hostkey_load(&id, seen, &err), -1);
	assert_int_equal(err.code, FCM_CONFIG);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, 0600, "", 0, &err), 0);
	assert_int_equal(store_hostkey_load(&id, seen, &err), -1);
}

static void test_run_record(void **state)
{
	struct vm_run run = {.shim = {4711, 1ull << 60, "c0ffee00-0000-4000-8000-000000000000"},
			      .vmm_driver = "qemu"},
		      seen;
	auto_free char *path = xprintf("%s/%s.json", run_dir, id.s);
	struct fcm_error err;

	(void)state;
	assert_int_equal(store_run_load(&id, &seen, &err), -1);
	assert_int_equal(err.code, FCM_NOT_FOUND);
	assert_int_equal(store_run_save(&id, &run, &err), 0);
	assert_int_equal(store_run_load(&id, &seen, &err), 0);
	assert_int_equal(seen.shim.pid, 4711);
	assert_true(seen.shim.start_ticks == 1ull << 60);
	assert_int_equal(seen.vmm.pid, 0);
	assert_string_equal(seen.vmm_driver, "qemu");
	static const char *const bad[] = {"", "{", "{}", "{\"shim\":null}",
		"{\"shim\":{\"pid\":0,\"start_ticks\":1,\"boot_id\":\"\"}}",
		"{\"shim\":{\"pid\":-1,\"start_ticks\":1,\"boot_id\":\"\"}}"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(file_write_atomic(AT_FDCWD, path, 0600, bad[i], strlen(bad[i]), &err), 0);
		assert_int_equal(store_run_load(&id, &seen, &err), -1);
		assert_int_equal(err.code, FCM_CONFIG);
	}
	assert_int_equal(store_run_remove(&id, &err), 0);
	assert_int_equal(store_run_remove(&id, &err), 0);
}

static void test_exit_record(void **state)
{
	struct vm_exit how = {7, 7};
	auto_free char *path = xprintf("%s/%s/exit", state_dir, id.s);
	struct fcm_error err;

	(void)state;
#define EXIT(text) assert_int_equal(file_write_atomic(AT_FDCWD, path, 0600, text, sizeof text - 1, &err), 0)
	assert_int_equal(store_exit_load(&id, &how, &err), -1);
	EXIT(""); /* still running, or the shim was killed */
	assert_int_equal(store_exit_load(&id, &how, &err), -1);
	assert_int_equal(err.code, FCM_NOT_FOUND);
	EXIT("status=-1\0signal=9\0");
	assert_int_equal(store_exit_load(&id, &how, &err), 0);
	assert_int_equal(how.status, -1);
	assert_int_equal(how.signal, 9);
	EXIT("status=3\0signal=0\0");
	assert_int_equal(store_exit_load(&id, &how, &err), 0);
	assert_int_equal(how.status, 3);
}

/* A full file system: saving fails with its own code, the old state stays, and nothing is left over. */
static void test_full(void **state)
{
	struct fcm_error err = {0};
	struct vm_view v;

	(void)state;
	if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
		mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		skip();
	auto_free char *small = xprintf("%s/small", top), *run = xprintf("%s/run2", top);
	store_done();
	assert_int_equal(mkdir(small, 0700), 0);
	if (mount("fcm-test", small, "tmpfs", 0, "size=64k") < 0)
		skip();
	assert_int_equal(store_init(small, run, &err), 0);
	assert_int_equal(store_vm_make(&id, owner(), &err), 0);
	save();
	auto_free char *ballast = xprintf("%s/ballast", small);
	int fd = open(ballast, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	while (write(fd, top, sizeof top) > 0)
		;
	close(fd);
	assert_false(store_writable());
	view(&v);
	v.state = VM_STOPPED;
	assert_int_equal(store_vm_save(&v, &err), -1);
	assert_int_equal(err.code, FCM_NO_SPACE);
	field_done(vm_view_fields, &v);
	assert_int_equal(chmod(small, 0755), 0);
	assert_int_equal(mount(NULL, small, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
	store_done();
	if (store_init(small, run, &err) < 0) /* read-only: what there is can be served */
		fail_msg("%s", err.msg);
	assert_int_equal(store_vm_load(&id, &v, &err), 0);
	assert_int_equal(v.state, VM_RUNNING);
	field_done(vm_view_fields, &v);
	store_done();
	assert_int_equal(umount(small), 0);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(test_layout),
		T(test_make_follows_no_link),
		T(test_lock),
		T(test_directory_is_a_link),
		T(test_round_trip),
		T(test_broken_config),
		T(test_config_that_lies),
		T(test_list_and_remove),
		T(test_sweep),
		T(test_hostkey),
		T(test_run_record),
		T(test_exit_record),
		T(test_full),
	};
	crypt_init();
	return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
