/*
 * Asks one thing again and again over a few connections that stay open, and says how many answers came in a second.
 *
 *	bench-load PORT PATH TOKEN CONNECTIONS MILLISECONDS
 *
 * An answer must be 200 and carry Content-Length: this is no HTTP client, only a fast one for two known servers.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 64, BUFFER = 1 << 18 };

static char request[1024];
static struct sockaddr_in server = {.sin_family = AF_INET};
static double deadline;

struct worker {
	pthread_t thread;
	unsigned long answers;
	const char *trouble;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Read one answer; *used is what `buffer` holds already, and afterwards what came too early. */
static const char *read_answer(int fd, char *buffer, size_t *used)
{
	for (;;) {
		char *end, *length;
		buffer[*used] = '\0';
		end = strstr(buffer, "\r\n\r\n");
		length = end ? strcasestr(buffer, "\r\ncontent-length:") : NULL;
		if (end && (!length || length > end || strncmp(buffer, "HTTP/1.1 200", 12) != 0))
			return "an answer that isn't 200 with a length";
		if (end) {
			size_t whole = (size_t)(end + 4 - buffer) + strtoul(length + 17, NULL, 10);
			if (whole < *used || whole == *used) {
				memmove(buffer, buffer + whole, *used - whole);
				*used -= whole;
				return NULL;
			}
		}
		ssize_t n = *used < BUFFER - 1 ? read(fd, buffer + *used, BUFFER - 1 - *used) : 0;
		if (n <= 0)
			return "the connection ended";
		*used += (size_t)n;
	}
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	char *buffer = malloc(BUFFER);
	size_t used = 0, n = strlen(request);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (!buffer || connect(fd, (struct sockaddr *)&server, sizeof server) < 0)
		worker->trouble = strerror(errno);
	while (!worker->trouble && now() < deadline) {
		if (write(fd, request, n) != (ssize_t)n)
			worker->trouble = "a short write";
		else if (!(worker->trouble = read_answer(fd, buffer, &used)))
			worker->answers++;
	}
	close(fd);
	free(buffer);
	return NULL;
}

int main(int argc, char **argv)
{
	static struct worker workers[MAX_CONNECTIONS];
	unsigned long connections, sum = 0;
	double seconds;

	if (argc != 6) {
		fprintf(stderr, "usage: bench-load PORT PATH TOKEN CONNECTIONS MILLISECONDS\n");
		return 2;
	}
	server.sin_port = htons((uint16_t)strtoul(argv[1], NULL, 10));
	server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	snprintf(request, sizeof request,
		"GET %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", argv[2], argv[3]);
	connections = strtoul(argv[4], NULL, 10);
	connections = connections < MAX_CONNECTIONS ? connections : MAX_CONNECTIONS;
	seconds = strtod(argv[5], NULL) / 1000;
	deadline = now() + seconds;
	for (unsigned long i = 0; i < connections; i++)
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
			return 1;
	for (unsigned long i = 0; i < connections; i++) {
		pthread_join(workers[i].thread, NULL);
		sum += workers[i].answers;
		if (workers[i].trouble) {
			fprintf(stderr, "bench-load: %s\n", workers[i].trouble);
			return 1;
		}
	}
	printf("%.0f\n", (double)sum / seconds);
	return 0;
}
