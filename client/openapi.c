/*
 * What docs/openapi.yaml has from tables: the operations (common/routes.def, common/contract.def), the bodies and the VM
 * (field tables), the answers and examples of errors (common/core/errors.def). The rest of it is docs/openapi.yaml.in.
 *
 * The answer of an error lists its codes as the names of its examples. Those that any request can meet, whatever it is for,
 * stand once in components.responses; all others are a route's own (tests/openapi.py compares both with what tests saw).
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "client/document.h"
#include "common/core/error.h"
#include "common/model.h"
#include "common/queries.h"

/* ---- the two tables of routes, as one: a route without its row of the contract doesn't compile ---- */

struct contract {
	const char *summary;
	const char *answers, *codes, *example;
};

#define X(handler_, summary_, answers_, codes_, example_)                                                    \
	static const struct contract contract_##handler_ = {                                                 \
		.summary = summary_,                                                                         \
		.answers = answers_,                                                                         \
		.codes = codes_,                                                                             \
		.example = example_,                                                                         \
	};
#include "common/contract.def"
#undef X

/* The flags of common/routes.def, which mean to us what its head says. */
enum {
	ROUTE_UPGRADE = 1 << 1,
	ROUTE_RAW = 1 << 2,
	ROUTE_PROGRESS = 1 << 3,
	ROUTE_IDEMPOTENT = 1 << 4,
	ROUTE_EXACT = 1 << 5,
};
enum need { NEED_NONE, NEED_READ, NEED_FULL };

struct operation {
	const char *method, *pattern, *handler;
	const struct field *query, *body;
	unsigned flags;
	enum need need;
	const struct contract *contract;
};

static const struct operation operations[] = {
#define X(method_, pattern_, handler_, need_, subject_, query_, body_, size_, max_, flags_)                  \
	{                                                                                                    \
		.method = method_,                                                                           \
		.pattern = pattern_,                                                                         \
		.handler = #handler_,                                                                        \
		.query = query_,                                                                             \
		.body = body_,                                                                               \
		.flags = flags_,                                                                             \
		.need = NEED_##need_,                                                                        \
		.contract = &contract_##handler_,                                                            \
	},
#include "common/routes.def"
#undef X
};

/* A body that several routes have is the first one's. */
static bool is_first(const struct operation *o)
{
	for (const struct operation *p = operations; p < o; p++)
		if (p->body == o->body)
			return false;
	return true;
}

static const char *body_name(const struct field *body)
{
	const struct operation *o = operations;

	while (o->body != body)
		o++;
	return o->handler;
}

void openapi_bodies(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
		const struct operation *o = &operations[i];
		if (o->body == NULL || !is_first(o))
			continue;
		printf("    body_%s:\n", o->handler);
		yaml_line(6, "type: object");
		yaml_line(6, "additionalProperties: false");
		schema_needed(o->body, 6, SIDE_REQUEST);
		yaml_line(6, "properties:");
		schema_members(o->body, 8, SIDE_REQUEST);
	}
}

void openapi_vm(void)
{
	schema_needed(vm_view_fields, 6, SIDE_ANSWER);
	yaml_line(6, "properties:");
	schema_members(vm_view_fields, 8, SIDE_ANSWER);
}

/* ---- errors ---- */

/* What any request can meet, whatever it is for: before its handler has a say, because the host or the daemon's files fail, or
 * because another request ends it. */
static const struct {
	enum fcm_code code;
	bool closed; /* not at routes that need no token */
	bool lost;   /* only where no route is met */
} common[] = {
	{.code = FCM_BAD_REQUEST},
	{.code = FCM_UNAUTHORIZED, .closed = true},
	{.code = FCM_FORBIDDEN},
	{.code = FCM_NO_ROUTE, .lost = true},
	{.code = FCM_METHOD, .lost = true},
	{.code = FCM_REQUEST_TIMEOUT},
	{.code = FCM_TOO_LARGE},
	{.code = FCM_URI_TOO_LONG},
	{.code = FCM_MISDIRECTED},
	{.code = FCM_THROTTLED, .closed = true},
	{.code = FCM_HEADERS_TOO_LARGE},
	{.code = FCM_CANCELLED, .closed = true},
	{.code = FCM_INTERNAL},
	{.code = FCM_CONFIG, .closed = true},
	{.code = FCM_HOST},
	{.code = FCM_UNAVAILABLE},
	{.code = FCM_NO_SPACE, .closed = true},
};

/* Does an operation answer with `code`? Without one: is it common? */
typedef bool answers_fn(enum fcm_code code, const struct operation *o);

static bool is_common(enum fcm_code code, const struct operation *o)
{
	for (size_t i = 0; i < ARRAY_SIZE(common); i++)
		if (common[i].code == code)
			return o == NULL || !(common[i].lost || (common[i].closed && o->need == NEED_NONE));
	return false;
}

/* The n-th word of a list, cut to `size`; false when there are less. */
static bool word_at(const char *list, size_t n, char *ret, size_t size)
{
	for (; n > 0 && *list; n--) {
		list += strcspn(list, " ");
		list += strspn(list, " ");
	}
	fcm_copy(ret, size, list);
	ret[strcspn(ret, " ")] = '\0';
	return *ret;
}

static bool has_word(const char *list, const char *word)
{
	char one[32];

	for (size_t i = 0; word_at(list, i, one, sizeof one); i++)
		if (strcmp(one, word) == 0)
			return true;
	return false;
}

/* Of its own: those that follow from its row, and those that its row of the contract says. */
static bool is_own(enum fcm_code code, const struct operation *o)
{
	if (o->body && (code == FCM_BAD_JSON || code == FCM_UNKNOWN_FIELD || code == FCM_MEDIA_TYPE ||
			       code == FCM_INVALID))
		return true;
	if (code == FCM_KEY_REUSED)
		return o->flags & ROUTE_IDEMPOTENT;
	if (code == FCM_NOT_FOUND && strchr(o->pattern, '{') && !strstr(o->pattern, "{name}"))
		return true;
	return has_word(o->contract->codes, fcm_code_info(code)->wire);
}

static bool is_any(enum fcm_code code, const struct operation *o)
{
	return is_common(code, o) || is_own(code, o);
}

static bool status_has(int status, answers_fn *has, const struct operation *o)
{
	for (enum fcm_code c = FCM_OK + 1; c < FCM_CODES; c++)
		if (fcm_code_info(c)->http == status && has(c, o))
			return true;
	return false;
}

static const char *header_of(int status)
{
	switch (status) {
	case 401:
		return ", WWW-Authenticate: {schema: {type: string}}";
	case 405:
		return ", Allow: {schema: {type: string}}";
	case 429:
	case 503:
		return ", Retry-After: {schema: {type: string}}";
	default:
		return "";
	}
}

#define REQUEST_ID "X-Request-Id: {schema: {type: string}}"

/* Print each code of the status that `has` picks, or its example. */
static void each_code(
	int status, answers_fn *has, const struct operation *o, const char *separator, bool example)
{
	bool any = false;

	for (enum fcm_code c = FCM_OK + 1; c < FCM_CODES; c++) {
		const struct fcm_code_info *info = fcm_code_info(c);
		if (info->http != status || !has(c, o))
			continue;
		fputs(any ? separator : "", stdout);
		if (example)
			printf("%s: {$ref: \"#/components/examples/%s\"}", info->wire, info->wire);
		else
			fputs(info->wire, stdout);
		any = true;
	}
}

static void error_answer(int status, answers_fn *has, const struct operation *o)
{
	fputs("{description: \"", stdout);
	each_code(status, has, o, ", ", false);
	printf("\", headers: {" REQUEST_ID "%s}, content: {application/json: {schema: {$ref: "
	       "\"#/components/schemas/Error\"}, examples: {",
		header_of(status));
	each_code(status, has, o, ", ", true);
	puts("}}}}");
}

enum { FIRST_ERROR = 400, LAST_ERROR = 599 };

void openapi_common(void)
{
	for (int status = FIRST_ERROR; status <= LAST_ERROR; status++) {
		if (!status_has(status, is_common, NULL))
			continue;
		printf("    any_%d: ", status);
		error_answer(status, is_common, NULL);
	}
}

static void error_answers(const struct operation *o)
{
	for (int status = FIRST_ERROR; status <= LAST_ERROR; status++) {
		if (!status_has(status, is_any, o))
			continue;
		printf("        \"%d\": ", status);
		if (status_has(status, is_own, o))
			error_answer(status, is_any, o);
		else
			printf("{$ref: \"#/components/responses/any_%d\"}\n", status);
	}
}

void openapi_errors(void)
{
	for (const struct error_row *e = error_rows; e->wire; e++) {
		printf("    %s:\n      summary: HTTP %d; exit status %d of fcm\n", e->wire, e->status,
			e->exit_status);
		printf("      value: {error: {code: %s, message: ", e->wire);
		yaml_text(e->meaning);
		fputs(*e->hint ? ", hint: " : "", stdout);
		if (*e->hint)
			yaml_text(e->hint);
		puts(", request_id: q7m3x0a2}}");
	}
}

/* ---- operations ---- */

static void parameters(const struct operation *o)
{
	const struct field *q = o->query;

	if (q == NULL && !(o->flags & (ROUTE_IDEMPOTENT | ROUTE_UPGRADE)))
		return;
	yaml_line(6, "parameters:");
	for (; q && q->key; q++) {
		printf("        - {name: %s, in: query, description: ", q->key);
		yaml_text(q->doc);
		fputs(q->flags & FIELD_REQUIRED ? ", required: true" : "", stdout);
		fputs(", schema: {", stdout);
		schema_value(q, SIDE_REQUEST);
		puts("}}");
	}
	if (o->flags & ROUTE_IDEMPOTENT)
		yaml_line(8, "- {$ref: \"#/components/parameters/key\"}");
	if (o->flags & ROUTE_UPGRADE)
		yaml_line(8, "- {$ref: \"#/components/parameters/upgrade\"}");
}

static bool needs_body(const struct field *t)
{
	for (; t->key; t++)
		if (t->flags & FIELD_REQUIRED)
			return true;
	return false;
}

static void request_body(const struct operation *o)
{
	if (o->flags & ROUTE_RAW) {
		yaml_line(6, "requestBody: {required: true, content: {application/octet-stream: {}}}");
	} else if (o->body) {
		yaml_line(6, "requestBody:");
		printf("        required: %s\n", needs_body(o->body) ? "true" : "false");
		printf("        content: {application/json: {schema: {$ref: "
		       "\"#/components/schemas/body_%s\"}, example: %s}}\n",
			body_name(o->body), o->contract->example);
	}
}

/* ---- answers of success: a status, and media types or schemas ---- */

/* Print, between two texts, what the pairs of the contract's `answers` have for a status: those that are media types, or those
 * that aren't. Returns how many there are; without texts nothing is printed. */
static unsigned each_answer(
	const struct operation *o, const char *status, bool media, const char *before, const char *after)
{
	char said[32], what[64];
	unsigned n = 0;

	for (size_t i = 0; word_at(o->contract->answers, i, said, sizeof said); i += 2) {
		word_at(o->contract->answers, i + 1, what, sizeof what);
		if (strcmp(said, status) != 0 || (strchr(what, '/') != NULL) != media)
			continue;
		if (before)
			printf("%s%s%s%s", n ? ", " : "", before, what, after);
		n++;
	}
	return n;
}

static bool streams_progress(const struct operation *o, const char *status)
{
	return o->flags & ROUTE_PROGRESS && strcmp(status, "200") == 0;
}

static void content(const struct operation *o, const char *status)
{
	unsigned json = each_answer(o, status, false, NULL, NULL);

	fputs(", content: {", stdout);
	if (json) {
		fputs(json > 1 ? "application/json: {schema: {anyOf: [" : "application/json: {schema: ",
			stdout);
		each_answer(o, status, false, "{$ref: \"#/components/schemas/", "\"}");
		fputs(json > 1 ? "]}}" : "}", stdout);
	}
	each_answer(o, status, true, "", ": {schema: {type: string}}");
	if (streams_progress(o, status))
		printf("%sapplication/x-ndjson: {schema: {type: string}}", json ? ", " : "");
	fputs("}", stdout);
}

static void answer(const struct operation *o, const char *status)
{
	bool upgrade = strcmp(status, "101") == 0;

	printf("        \"%s\": {description: \"", status);
	if (each_answer(o, status, false, "", "") + each_answer(o, status, true, "", "") == 0)
		fputs("progress, with the result as its last line", stdout);
	fputs("\", headers: {" REQUEST_ID "}", stdout);
	if (!upgrade)
		content(o, status);
	puts("}");
}

static void answers(const struct operation *o)
{
	static const char *const statuses[] = {"101", "200", "201"};

	yaml_line(6, "responses:");
	for (size_t i = 0; i < ARRAY_SIZE(statuses); i++)
		if (each_answer(o, statuses[i], false, NULL, NULL) ||
			each_answer(o, statuses[i], true, NULL, NULL) || streams_progress(o, statuses[i]))
			answer(o, statuses[i]);
	error_answers(o);
}

static void operation(const struct operation *o)
{
	char method[8];

	fcm_copy(method, sizeof method, o->method);
	for (char *c = method; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	printf("    %s:\n      operationId: %s\n      summary: ", method, o->handler);
	yaml_text(o->contract->summary);
	putchar('\n');
	if (o->need == NEED_NONE)
		yaml_line(6, "security: []");
	parameters(o);
	request_body(o);
	answers(o);
}

/* The name in a pattern's braces, or none. */
static void path_parameter(const char *pattern)
{
	const char *brace = strchr(pattern, '{');

	if (brace)
		printf("    parameters: [{$ref: \"#/components/parameters/%.*s\"}]\n",
			(int)strcspn(brace + 1, "}"), brace + 1);
}

static bool begins_path(const struct operation *o)
{
	for (const struct operation *p = operations; p < o; p++)
		if (strcmp(p->pattern, o->pattern) == 0)
			return false;
	return true;
}

void openapi_paths(void)
{
	const struct operation *end = operations + ARRAY_SIZE(operations);

	for (const struct operation *o = operations; o < end; o++) {
		if (!begins_path(o))
			continue;
		printf("  %s:\n", o->pattern);
		path_parameter(o->pattern);
		for (const struct operation *same = o; same < end; same++)
			if (strcmp(same->pattern, o->pattern) == 0)
				operation(same);
	}
}
