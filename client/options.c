#include "client/options.h"

#include <getopt.h>
#include <string.h>

#include "common/near.h"

enum { MAX_ROWS = 64, FIRST_VALUE = 256 };

struct getopt_tables {
	struct option longs[OPTION_SETS * MAX_ROWS + 1];
	char shorts[2 + OPTION_SETS * MAX_ROWS * 2 + 1];
	size_t n;
};

static size_t row_count(const struct option_row *rows)
{
	size_t n = 0;

	while (rows && rows[n].name)
		n++;
	return n;
}

/* The row that says what `row` means: itself, or the one above when it is another name. */
static const struct option_row *meaning_of(const struct option_row *row)
{
	while (row->doc == NULL)
		row--;
	return row;
}

static bool is_optional(const struct option_row *meaning)
{
	return meaning->arg && *meaning->arg == '[';
}

/* What getopt_long(3) calls it. An optional one that stands in the next word is for us to find. */
static int has_argument(const struct option_row *meaning)
{
	if (is_optional(meaning))
		return optional_argument;
	return meaning->arg ? required_argument : no_argument;
}

static void add_rows(struct getopt_tables *t, const struct option_set *set, int value)
{
	for (size_t i = 0, n = row_count(set->rows); i < n; i++) {
		const struct option_row *row = &set->rows[i];
		int has_arg = has_argument(meaning_of(row));
		size_t s = strlen(t->shorts);
		t->longs[t->n++] = (struct option){row->name, has_arg, NULL, value + (int)i};
		if (row->letter)
			fcm_format(
				t->shorts + s, sizeof t->shorts - s, "%c%s", row->letter, has_arg ? ":" : "");
	}
}

/* The set and row that a value of getopt_long() stands for; NULL for none. */
static const struct option_row *row_of(
	const struct option_set *sets, int value, const struct option_set **ret_set)
{
	for (int s = 0; s < OPTION_SETS; s++) {
		size_t n = row_count(sets[s].rows);
		for (size_t i = 0; i < n; i++) {
			const struct option_row *row = &sets[s].rows[i];
			if (value == FIRST_VALUE + s * MAX_ROWS + (int)i ||
				(row->letter && value == row->letter)) {
				*ret_set = &sets[s];
				return row;
			}
		}
	}
	return NULL;
}

/* The field's error names its key; the user typed an option. */
static int name_option(struct fcm_error *err, const char *key, const char *option)
{
	char msg[sizeof err->msg];
	size_t n = strlen(key);
	const char *rest = err->msg;

	if (strncmp(rest, key, n) == 0 && strncmp(rest + n, ": ", 2) == 0)
		rest += n + 2;
	fcm_format(msg, sizeof msg, "--%s: %s", option, rest);
	fcm_copy(err->msg, sizeof err->msg, msg);
	return -1;
}

/* Which field it sets; the caller's. */
static char *key_of(const struct option_row *meaning, bool with_arg)
{
	const char *keys = meaning->key ? meaning->key : meaning->name, *second = strchr(keys, ' ');

	if (second && !with_arg)
		return xstrdup(second + 1);
	return xprintf("%.*s", (int)strcspn(keys, " "), keys);
}

static int set_option(
	const struct option_set *set, const struct option_row *row, const char *arg, struct fcm_error *err)
{
	auto_free char *key = key_of(meaning_of(row), arg != NULL);

	if (arg && *arg == '\0')
		return fcm_fail(err, FCM_USAGE, "option '--%s' has an empty value", row->name);
	if (field_set_text(set->fields, set->obj, key, arg ? arg : "yes", err) < 0)
		return name_option(err, key, row->name);
	if (set->given && !strv_has(set->given, key))
		strv_add(set->given, key);
	return 0;
}

/* The next word, if that is a number. */
static const char *number_behind(int argc, char **argv)
{
	const char *word = optind < argc ? argv[optind] : "";

	if (*word == '\0' || word[strspn(word, "0123456789")])
		return NULL;
	optind++;
	return word;
}

/* The option that "--cpuss=2" is a slip of. */
static int hint_near(const struct option_set *sets, const char *typed, struct fcm_error *err)
{
	typed += strspn(typed, "-");
	auto_free char *name = xprintf("%.*s", (int)strcspn(typed, "="), typed);
	struct near n = near_of(name);

	for (int s = 0; s < OPTION_SETS; s++)
		for (size_t i = 0; i < row_count(sets[s].rows); i++)
			near_try(&n, sets[s].rows[i].name);
	return n.best ? fcm_hint(err, "did you mean --%s?", n.best) : -1;
}

static int fail_unknown(const struct option_set *sets, char **argv, int at, struct fcm_error *err)
{
	if (optopt && optopt < FIRST_VALUE)
		return fcm_fail(err, FCM_USAGE, "unknown option '-%c'", optopt);
	if (optopt) /* getopt_long(3) leaves the value of a flag that got an argument here */
		return fcm_fail(err, FCM_USAGE, "option '%s' takes no value", argv[at]);
	fcm_fail(err, FCM_USAGE, "unknown option '%s'", argv[at]);
	return hint_near(sets, argv[at], err);
}

int options_parse(const struct option_set sets[OPTION_SETS], int argc, char **argv, bool first_ends,
	int *ret_first, struct fcm_error *err)
{
	struct getopt_tables t = {.n = 0};
	const struct option_set *set;
	int value;

	fcm_copy(t.shorts, sizeof t.shorts, first_ends ? "+:" : ":");
	for (int s = 0; s < OPTION_SETS; s++)
		add_rows(&t, &sets[s], FIRST_VALUE + s * MAX_ROWS);
	optind = 0; /* getopt(3): forget what was parsed before */
	opterr = 0;
	while ((value = getopt_long(argc, argv, t.shorts, t.longs, NULL)) != -1) {
		if (value == ':')
			return fcm_fail(err, FCM_USAGE, "option '%s' needs a value", argv[optind - 1]);
		const struct option_row *row = row_of(sets, value, &set);
		if (row == NULL)
			return fail_unknown(sets, argv, optind - 1, err);
		const char *arg = optarg			 ? optarg
				  : is_optional(meaning_of(row)) ? number_behind(argc, argv)
								 : NULL;
		if (set_option(set, row, arg, err) < 0)
			return -1;
	}
	*ret_first = optind;
	return 0;
}

const char *options_name(const struct option_row *rows, const char *key)
{
	for (; rows && rows->name; rows++) {
		auto_free char *with = key_of(rows, true), *without = key_of(rows, false);
		if (strcmp(with, key) == 0 || strcmp(without, key) == 0)
			return rows->name;
	}
	return key;
}

void options_print(FILE *f, const struct option_row *rows)
{
	enum { DOC_COLUMN = 26 };
	size_t n = row_count(rows);

	for (size_t i = 0; i < n;) {
		const struct option_row *m = &rows[i];
		_cleanup_(buf_done) struct buf b = {0};
		buf_str(&b, "  ");
		do {
			if (rows[i].letter)
				buf_printf(&b, "-%c, ", rows[i].letter);
			buf_printf(&b, "--%s, ", rows[i].name);
		} while (++i < n && rows[i].doc == NULL);
		b.n -= 2;
		b.p[b.n] = '\0';
		if (m->arg)
			buf_printf(&b, " %s", m->arg);
		if (b.n + 2 > DOC_COLUMN)
			fprintf(f, "%s\n%*s%s\n", b.p, DOC_COLUMN, "", m->doc);
		else
			fprintf(f, "%-*s%s\n", DOC_COLUMN, b.p, m->doc);
	}
}
