/* What a VMM that a guest has taken over may answer: any bytes, then the end of the stream. */
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/core/clock.h"
#include "daemon/vmm/qmp.h"

/* The socket's buffer must take the whole input, since nobody reads while we write. */
enum { INPUT_MAX = 100000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const char greeting[] = "{\"QMP\":{}}\n{\"return\":{},\"id\":1}\n";
	struct fcm_error err;
	struct qmp q;
	int pair[2];

	if (n == 0 || n > INPUT_MAX || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return 0;
	/* An odd first byte lets the handshake pass, so that the input meets a command. */
	if (data[0] & 1)
		(void)!send(pair[1], greeting, sizeof greeting - 1, MSG_DONTWAIT);
	(void)!send(pair[1], data + 1, n - 1, MSG_DONTWAIT);
	shutdown(pair[1], SHUT_WR);
	if (qmp_open(&q, pair[0], clock_in(1000), &err) == 0) {
		field_json *answer = NULL;
		while (qmp_ask(&q, "query-status", &answer, clock_in(1000), &err) == 0) {
			(void)fj_get_str(answer, "status");
			fj_free(STEAL(answer));
		}
		qmp_done(&q);
	}
	close(pair[1]);
	return 0;
}
