#include "daemon/vmm/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"

enum { RETRY_MS = 1 };

/* Has the shim written how the VMM ended (daemon/shim/plan.h)? It makes <id>/exit anew, empty, before each start. */
static bool has_ended(int run_dirfd)
{
	struct stat st;

	return fstatat(run_dirfd, "../../exit", &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_size > 0;
}

int vmm_connect(int run_dirfd, const char *name, int64_t deadline, struct fcm_error *err)
{
	for (;;) {
		bool ended = has_ended(run_dirfd); /* before the try: a socket may be left over */
		int fd = unix_connect(run_dirfd, name, SOCK_NONBLOCK, err);
		if (fd >= 0)
			return fd;
		/* EAGAIN: other connections wait to be accepted (unix(7)). */
		if (err->sys != ENOENT && err->sys != ECONNREFUSED && err->sys != EAGAIN)
			return -1;
		if (ended)
			return fcm_fail(err, FCM_VMM, "the VMM has ended");
		if (clock_left(deadline) == 0)
			return fcm_fail(
				err, FCM_TIMEOUT, "the VMM's socket %s did not come up in time", name);
		clock_sleep(RETRY_MS);
	}
}

/* A connection that the other end closed says so in three ways. */
static int lost(const char *doing, struct fcm_error *err)
{
	int e = errno;

	if (e != EPIPE && e != ECONNRESET)
		return fcm_fail_errno(err, "%s the VMM", doing);
	fcm_fail(err, FCM_VMM, "the VMM closed its control socket");
	err->sys = e;
	return -1;
}

int vmm_wait(int fd, short events, int64_t deadline, struct fcm_error *err)
{
	struct pollfd p = {.fd = fd, .events = events};

	for (;;) {
		int left = clock_left(deadline);
		if (left == 0)
			return fcm_fail(err, FCM_TIMEOUT, "the VMM does not answer");
		int n = poll(&p, 1, left);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return fcm_fail_errno(err, "poll");
	}
}

static ssize_t send_some(int fd, const void *data, size_t n, int passed)
{
	union {
		char room[CMSG_SPACE(sizeof passed)];
		struct cmsghdr head;
	} control = {.head = {.cmsg_len = CMSG_LEN(sizeof passed),
			     .cmsg_level = SOL_SOCKET,
			     .cmsg_type = SCM_RIGHTS}};
	struct iovec text = {.iov_base = (void *)(uintptr_t)data, .iov_len = n};
	struct msghdr m = {.msg_iov = &text, .msg_iovlen = 1};

	if (passed >= 0) {
		memcpy(CMSG_DATA(&control.head), &passed, sizeof passed);
		m.msg_control = &control;
		m.msg_controllen = sizeof control.room;
	}
	return sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

int vmm_send(int fd, const void *data, size_t n, int64_t deadline, struct fcm_error *err)
{
	return vmm_send_fd(fd, data, n, -1, deadline, err);
}

int vmm_send_fd(int fd, const void *data, size_t n, int passed, int64_t deadline, struct fcm_error *err)
{
	const char *text = data;

	while (n > 0) {
		ssize_t k = send_some(fd, text, n, passed);
		if (k < 0 && errno == EAGAIN) {
			if (vmm_wait(fd, POLLOUT, deadline, err) < 0)
				return -1;
			continue;
		}
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return lost("talk to", err);
		passed = -1; /* it went with the first byte */
		text += k;
		n -= (size_t)k;
	}
	return 0;
}

ssize_t vmm_receive(int fd, void *data, size_t max, int64_t deadline, struct fcm_error *err)
{
	for (;;) {
		if (vmm_wait(fd, POLLIN, deadline, err) < 0)
			return -1;
		ssize_t n = recv(fd, data, max, MSG_DONTWAIT);
		if (n >= 0)
			return n;
		if (errno != EAGAIN && errno != EINTR)
			return lost("listen to", err);
	}
}

void vmm_clean(char *text, size_t n)
{
	text[fcm_printable(text, n)] = '\0';
	for (char *s = text; (s = strpbrk(s, "\n\t"));)
		*s = ' ';
}
