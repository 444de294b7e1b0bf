/*
 * The least that libmicrohttpd can do in the mode that fcmd uses (a thread and a connection for each request): answer
 * with the same bytes.
 *
 *	bench-hello PORT FILE	answers with the contents of FILE, at most 1 MiB, until it is killed
 */
#include <arpa/inet.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_BODY = 1 << 20 };

static enum MHD_Result answer(void *response, struct MHD_Connection *connection, const char *url,
	const char *method, const char *version, const char *data, size_t *size, void **state)
{
	static int seen;

	(void)url, (void)method, (void)version, (void)data, (void)size;
	if (!*state) { /* the headers are in; the answer goes out when the body is, too */
		*state = &seen;
		return MHD_YES;
	}
	return MHD_queue_response(connection, MHD_HTTP_OK, response);
}

int main(int argc, char **argv)
{
	static char body[MAX_BODY];
	FILE *file = argc == 3 ? fopen(argv[2], "re") : NULL;
	size_t n = file ? fread(body, 1, sizeof body, file) : 0;
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct MHD_Response *response = MHD_create_response_from_buffer(n, body, MHD_RESPMEM_PERSISTENT);

	if (!file || !response) {
		fprintf(stderr, "usage: bench-hello PORT FILE\n");
		return 2;
	}
	fclose(file);
	address.sin_port = htons((uint16_t)strtoul(argv[1], NULL, 10));
	MHD_add_response_header(response, "Content-Type", "application/json");
	MHD_add_response_header(response, "Connection", "close");
	if (!MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL |
				      MHD_USE_ITC,
		    0, NULL, NULL, answer, response, MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_END)) {
		perror("bench-hello");
		return 1;
	}
	for (;;)
		pause();
}
