/*
 * Asks one thing again and again, a few at a time, each over a connection of its own as fcmd wants it, and says how many
 * answers came in a second.
 *
 *	bench-load PORT PATH TOKEN CONNECTIONS MILLISECONDS
 *
 * No HTTP client, only a fast one for two known servers that close the connection behind their answer.
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

/* Read to the end of the answer: the server closes the connection. */
static const char *read_answer(int fd, char *buffer)
{
	size_t used = 0;
	ssize_t n;

	while ((n = read(fd, buffer + used, BUFFER - used)) > 0)
		used += (size_t)n;
	if (n < 0)
		return strerror(errno);
	return used > 12 && memcmp(buffer, "HTTP/1.1 200", 12) == 0 ? NULL : "an answer that isn't 200";
}

static const char *ask(char *buffer)
{
	size_t n = strlen(request);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const char *trouble = NULL;

	if (fd < 0 || connect(fd, (struct sockaddr *)&server, sizeof server) < 0)
		trouble = strerror(errno);
	else if (write(fd, request, n) != (ssize_t)n)
		trouble = "a short write";
	else
		trouble = read_answer(fd, buffer);
	if (fd >= 0)
		close(fd);
	return trouble;
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	char *buffer = malloc(BUFFER);

	if (!buffer)
		worker->trouble = "no memory";
	while (!worker->trouble && now() < deadline)
		if (!(worker->trouble = ask(buffer)))
			worker->answers++;
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
