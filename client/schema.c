/*
 * Field tables as JSON schemas, in the flow style of YAML: what docs/openapi.yaml says of bodies, queries and the VM.
 */
#include <stdio.h>
#include <string.h>

#include "client/document.h"

void yaml_text(const char *s)
{
	putchar('"');
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			putchar('\\');
		putchar(*s);
	}
	putchar('"');
}

void yaml_line(int indent, const char *s)
{
	printf("%*s%s\n", indent, "", s);
}

static void words(const char *const *names)
{
	fputs("[", stdout);
	for (size_t i = 0; names[i]; i++) {
		fputs(i ? ", " : "", stdout);
		yaml_text(names[i]);
	}
	fputs("]", stdout);
}

/* ---- schemas ---- */

/* What an answer has beside the members of its table. */
static const struct {
	const char *object, *member, *schema;
} beside[] = {
	{"expose", "url", "{type: [string, \"null\"]}"},
	{"health", "status", "{type: string, enum: [starting, healthy, unhealthy]}"},
	{"health", "failing", "{type: integer, description: \"failures in a row\"}"},
	{"health", "message", "{type: string, description: \"why the last one failed\"}"},
};

static void count(const char *what, const struct field *f, enum schema_side side)
{
	if (side == SIDE_REQUEST && f->max)
		printf(", %s: %lld", what, (long long)f->max);
}

static void range(const struct field *f, enum schema_side side)
{
	if (side == SIDE_REQUEST && f->max)
		printf(", minimum: %lld, maximum: %lld", (long long)f->min, (long long)f->max);
}

static void string_schema(const struct field *f, enum schema_side side)
{
	long long max = f->type == FIELD_CHARS && f->size ? (long long)f->size - 1 : (long long)f->max;

	fputs("type: string", stdout);
	if (side == SIDE_REQUEST && max)
		printf(", maxLength: %lld", max);
}

/* Or by a text: a size with a suffix, the name of a signal. */
static void number_schema(const struct field *f, enum schema_side side, const char *pattern)
{
	if (side == SIDE_REQUEST)
		fputs("oneOf: [{", stdout);
	fputs("type: integer", stdout);
	range(f, side);
	if (side == SIDE_REQUEST)
		printf("}, {type: string, pattern: \"%s\"}]", pattern);
}

void schema_value(const struct field *f, enum schema_side side)
{
	switch (f->type) {
	case FIELD_BOOL:
		fputs("type: boolean", stdout);
		break;
	case FIELD_U32:
	case FIELD_I64:
		fputs("type: integer", stdout);
		range(f, side);
		break;
	case FIELD_MIB:
		number_schema(f, side, "^[0-9]+ *[kmgtKMGT]");
		break;
	case FIELD_SIGNAL:
		number_schema(f, side, "^[A-Za-z]+[0-9+-]*$");
		break;
	case FIELD_STR:
	case FIELD_CHARS:
		string_schema(f, side);
		break;
	case FIELD_ENUM:
		fputs("type: string, enum: ", stdout);
		words(f->names);
		break;
	case FIELD_IPV4:
		fputs("type: [string, \"null\"], format: ipv4", stdout);
		break;
	case FIELD_TIME:
		fputs("type: [string, \"null\"], format: date-time", stdout);
		break;
	case FIELD_STRV:
		fputs("type: array, items: {type: string}", stdout);
		count("maxItems", f, side);
		break;
	case FIELD_MAP:
		fputs("type: object, additionalProperties: {type: string}", stdout);
		count("maxProperties", f, side);
		break;
	case FIELD_KEYS:
		fputs("type: object, additionalProperties: {type: object}", stdout);
		count("maxProperties", f, side);
		break;
	case FIELD_OBJECT:
		break;
	}
}

static bool is_needed(const struct field *f, enum schema_side side)
{
	return side == SIDE_REQUEST ? f->flags & FIELD_REQUIRED : !(f->flags & FIELD_OMIT_EMPTY);
}

void schema_needed(const struct field *t, int indent, enum schema_side side)
{
	bool any = false;

	for (; t->key; t++) {
		if (!is_needed(t, side))
			continue;
		if (any)
			printf(", %s", t->key);
		else
			printf("%*srequired: [%s", indent, "", t->key);
		any = true;
	}
	fputs(any ? "]\n" : "", stdout);
}

static void object_schema(const struct field *f, int indent, enum schema_side side)
{
	printf("%*s%s:\n", indent, "", f->key);
	indent += 2;
	yaml_line(indent, f->flags & FIELD_NULL_EMPTY ? "type: [object, \"null\"]" : "type: object");
	if (f->doc) {
		printf("%*sdescription: ", indent, "");
		yaml_text(f->doc);
		putchar('\n');
	}
	yaml_line(indent, "additionalProperties: false");
	schema_needed(f->sub, indent, side);
	yaml_line(indent, "properties:");
	schema_members(f->sub, indent + 2, side);
	for (size_t i = 0; side == SIDE_ANSWER && i < ARRAY_SIZE(beside); i++)
		if (strcmp(beside[i].object, f->key) == 0)
			printf("%*s%s: %s\n", indent + 2, "", beside[i].member, beside[i].schema);
}

void schema_members(const struct field *t, int indent, enum schema_side side)
{
	for (; t->key; t++) {
		if (t->type == FIELD_OBJECT) {
			object_schema(t, indent, side);
			continue;
		}
		printf("%*s%s: {", indent, "", t->key);
		schema_value(t, side);
		if (t->doc) {
			fputs(", description: ", stdout);
			yaml_text(t->doc);
		}
		puts("}");
	}
}
