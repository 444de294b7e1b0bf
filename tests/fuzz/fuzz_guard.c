/* Any bytes as a request's head: what the guard takes is unambiguous, and what it returns points into it. */
#include <stdlib.h>
#include <string.h>

#include "daemon/http/guard.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_head(const struct head *head, const char *p, size_t n)
{
	for (unsigned i = 0; i < head->n; i++) {
		const char *value = head->fields[i].value;
		if (value < p || value + strlen(value) > p + n || strpbrk(value, "\r\n"))
			abort();
	}
	if (head->path[0] != '/' || strpbrk(head->path, " \t\r\n?#") || !head_get(head, "host"))
		abort();
	if (head->chunked && (head->length >= 0 || head_get(head, "content-length")))
		abort();
	(void)head_has_word(head, "accept", "application/x-ndjson");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct fcm_error err;
	struct head head;
	ssize_t size = guard_scan((const char *)data, n, &err);

	if (size <= 0)
		return 0;
	if ((size_t)size > n || memcmp(data + size - 2, "\r\n", 2) != 0)
		abort();
	char *copy = malloc((size_t)size + 1);
	memcpy(copy, data, (size_t)size);
	if (guard_parse(copy, (size_t)size, &head, &err) == 0) {
		check_head(&head, copy, (size_t)size);
		(void)guard_origin(&head, NULL, &err);
	}
	free(copy);
	return 0;
}
