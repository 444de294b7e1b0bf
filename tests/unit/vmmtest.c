#include "tests/unit/vmmtest.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "common/core/fileio.h"

static struct fcm_error err;
static char dir[40];

int vmmtest_run = -1;

struct vmm_config vmmtest_config(const char *binary, enum vmm_accel accel)
{
	return (struct vmm_config){
		.id = {"k3f9x2ab"},
		.name = {"cosmic-comet"},
		.vcpus = 2,
		.mem_mib = 512,
		.ip = {htonl(0xac100032)},
		.gateway = {htonl(0xac100001)},
		.prefix = 24,
		.mac = {0x02, 0xfc, 0xac, 0x10, 0x00, 0x32},
		.binary = binary,
		.version = "1.12.1",
		.kernel = "/k/vmlinux",
		.initrd = "/k/initrd",
		.image = "/i/image.ext4",
		.disk = "/v/rootfs.img",
		.run = "/v/jail/run",
		.accel = accel,
		.tsc_khz = 2596137,
	};
}

void vmmtest_list(const struct strv *got, const char *const *want)
{
	for (size_t i = 0; i < got->n || want[i]; i++) {
		assert_true(i < got->n);
		assert_non_null(want[i]);
		assert_string_equal(got->v[i], want[i]);
	}
}

int vmmtest_setup(void **state)
{
	char path[64];

	(void)state;
	strcpy(dir, "/tmp/vmmtest-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/jail/run", dir);
	assert_int_equal(dir_make(path, 0700, &err), 0);
	vmmtest_run = dir_open(AT_FDCWD, path, &err);
	assert_true(vmmtest_run >= 0);
	return 0;
}

int vmmtest_teardown(void **state)
{
	(void)state;
	close(vmmtest_run);
	assert_int_equal(dir_remove(AT_FDCWD, dir, NULL, &err), 0);
	return 0;
}

static void *serve(void *arg)
{
	struct vmmtest_peer *p = arg;
	int held[8];
	size_t holds = 0;

	for (size_t i = 0; i < p->n; i++) {
		int fd = accept(p->listen_fd, NULL, NULL);
		ssize_t n = recv(fd, p->got, sizeof p->got - 1, 0);
		p->got[n > 0 ? n : 0] = '\0';
		if (p->says[i] == NULL) {
			held[holds++] = fd;
			continue;
		}
		(void)!send(fd, p->says[i], strlen(p->says[i]), MSG_NOSIGNAL);
		close(fd);
	}
	while (holds)
		close(held[--holds]);
	return NULL;
}

void vmmtest_begin(struct vmmtest_peer *p, const char *socket, const char *const *says, size_t n)
{
	*p = (struct vmmtest_peer){
		.listen_fd = unix_listen(vmmtest_run, socket, 0600, 0, &err), .says = says, .n = n};
	assert_true(p->listen_fd >= 0);
	assert_int_equal(pthread_create(&p->thread, NULL, serve, p), 0);
}

void vmmtest_end(struct vmmtest_peer *p)
{
	pthread_join(p->thread, NULL);
	close(p->listen_fd);
}
