/* Which program a driver runs: what was installed below the state directory, then PATH, unless the config has a path. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/config.h"
#include "common/core/fileio.h"
#include "daemon/vmm/program.h"
#include "daemon/vmm/vmm.h"

static struct fcm_error err;
static struct fcmd_config config;
static struct vmm_probe probe;
static char dir[40];

/* A program that says it is Firecracker. */
static void put_program(const char *folder, const char *version)
{
	auto_free char *path = xprintf("%s/%s", dir, folder);
	auto_free char *text = xprintf("#!/bin/sh\necho 'Firecracker v%s'\n", version);

	assert_int_equal(dir_make(path, 0755, &err), 0);
	auto_close int fd = dir_open(AT_FDCWD, path, &err);
	assert_int_equal(file_write_atomic(fd, "firecracker", 0755, text, strlen(text), &err), 0);
}

static void let_current_be(const char *version)
{
	auto_free char *link = xprintf("%s/firecracker/current", dir);

	unlink(link);
	assert_int_equal(symlink(version, link), 0);
}

static int setup(void **state)
{
	(void)state;
	fcm_copy(dir, sizeof dir, "/tmp/vmm-XXXXXX");
	assert_non_null(mkdtemp(dir));
	config_init(&config);
	fcm_copy(config.state_dir, sizeof config.state_dir, dir);
	fcm_copy(config.vmm, sizeof config.vmm, "firecracker");
	auto_free char *bin = xprintf("%s/bin", dir);
	setenv("PATH", bin, 1);
	put_program("bin", "1.8.0");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	config_done(&config);
	assert_int_equal(dir_remove(AT_FDCWD, dir, NULL, &err), 0);
	return 0;
}

static void expect(const char *folder, const char *version)
{
	auto_free char *path = xprintf("%s%s/firecracker", dir, folder);

	(void)vmm_choose(&config, &probe); /* which there may be no KVM for */
	assert_string_equal(probe.binary, path);
	assert_string_equal(probe.version, version);
}

static void test_in_path(void **state)
{
	(void)state;
	expect("/bin", "1.8.0");
}

static void test_installed(void **state)
{
	(void)state;
	put_program("firecracker/1.12.1", "1.12.1");
	put_program("firecracker/1.13.0", "1.13.0");
	expect("/bin", "1.8.0"); /* none is the current one */
	let_current_be("1.12.1");
	expect("/firecracker/1.12.1", "1.12.1");
	let_current_be("1.13.0");
	expect("/firecracker/1.13.0", "1.13.0");
	let_current_be("1.14.0");
	expect("/bin", "1.8.0"); /* it leads nowhere */
}

static void test_not_executable(void **state)
{
	(void)state;
	auto_free char *path = xprintf("%s/firecracker/1.12.1/firecracker", dir);

	put_program("firecracker/1.12.1", "1.12.1");
	let_current_be("1.12.1");
	assert_int_equal(chmod(path, 0644), 0);
	expect("/bin", "1.8.0");
}

static void test_config_has_a_path(void **state)
{
	(void)state;
	put_program("firecracker/1.12.1", "1.12.1");
	put_program("mine", "1.9.0");
	let_current_be("1.12.1");
	fcm_format(config.firecracker, sizeof config.firecracker, "%s/mine/firecracker", dir);
	expect("/mine", "1.9.0");
}

/* What needs other files would be found out in the jail, by a VM that doesn't start. */
static void test_not_static(void **state)
{
	(void)state;
	fcm_format(config.firecracker, sizeof config.firecracker, "%s/bin/firecracker", dir);
	assert_null(vmm_choose(&config, &probe));
	assert_non_null(strstr(probe.reason, "/bin/firecracker is no ELF program"));
	assert_string_equal(probe.kvm, "");
	assert_int_equal(program_is_static("/proc/self/exe", &err), -1);
	assert_int_equal(err.code, FCM_NO_VMM);
	assert_string_equal(err.msg, "/proc/self/exe isn't static, and its jail has no libraries");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_in_path, setup, teardown),
		cmocka_unit_test_setup_teardown(test_installed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_not_executable, setup, teardown),
		cmocka_unit_test_setup_teardown(test_config_has_a_path, setup, teardown),
		cmocka_unit_test_setup_teardown(test_not_static, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
