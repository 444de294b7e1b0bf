/* Any text as a path and a query: a parameter never holds what could become a path or a line of its own. */
#include <stdlib.h>
#include <string.h>

#include "common/queries.h"
#include "daemon/http/router.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define X(method, pattern, handler, need, subject, query, body, size, max, flags)                            \
	{method, pattern, NEED_READ, SUBJECT_NONE, NULL, 0, max, 0, NULL, query},
static const struct route table[] = {
#include "common/routes.def"
	{NULL, NULL, NEED_READ, SUBJECT_NONE, NULL, 0, 0, 0, NULL, NULL},
};
#undef X

static void check_match(const struct match *m)
{
	for (unsigned i = 0; i < m->n; i++) {
		const char *v = m->params[i].value;
		if (!*v || strlen(v) > SEGMENT_MAX || strcmp(v, ".") == 0 || strcmp(v, "..") == 0)
			abort();
		for (; *v; v++)
			if (*v < 0x20 || *v == '/' || *v == 0x7f)
				abort();
	}
}

static void check_query(const struct query *q)
{
	for (unsigned i = 0; i < q->n; i++)
		for (const char *v = q->fields[i].value; *v; v++)
			if ((unsigned char)*v < 0x20 || *v == 0x7f)
				abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct fcm_error err;
	struct match match;
	struct query query;
	char *text = calloc(1, n + 2);

	text[0] = '/';
	memcpy(text + 1, data, n);
	char *q = strchr(text, '?');
	if (q)
		*q++ = 0;
	bool found = router_match(table, n % 2 ? "GET" : "PUT", text, &match, &err) == 0;
	if (found)
		check_match(&match);
	if (found && router_query(match.route, q, &query, &err) == 0)
		check_query(&query);
	free(text);
	return 0;
}
