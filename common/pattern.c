#include "common/pattern.h"

#include <string.h>

/* The matcher keeps each state that it meets (glibc's regexec.c builds its automaton as it goes), so it begins anew after as
 * many bytes. */
enum { FRESH = 16384 };

/* What regcomp(3) would take and we don't, or NULL. */
static const char *refused(const char *s)
{
	for (bool in_brackets = false; *s; s++) {
		if (in_brackets)
			in_brackets = *s != ']';
		else if (*s == '[')
			in_brackets = s[1] != '\0', s += s[1] == '^', s += s[1] == ']';
		else if (*s == '{')
			return "bounds in braces aren't taken (\\{ is a brace)";
		else if (*s == '\\' && s[1] >= '1' && s[1] <= '9')
			return "back references aren't taken";
		else if (*s == '\\' && s[1])
			s++;
	}
	return NULL;
}

int pattern_check(const char *text, const char *key, struct fcm_error *err)
{
	const char *why = refused(text);
	char said[100];
	regex_t re;

	if (*text == '\0' || strlen(text) > PATTERN_MAX)
		return fcm_fail_field(err, FCM_INVALID, key, "%s: 1 to %d bytes", key, PATTERN_MAX);
	if (why)
		return fcm_fail_field(err, FCM_INVALID, key, "%s: %s", key, why);
	int e = regcomp(&re, text, REG_EXTENDED | REG_NOSUB);
	if (e == 0) {
		regfree(&re);
		return 0;
	}
	regerror(e, &re, said, sizeof said);
	return fcm_fail_field(err, FCM_INVALID, key, "%s: no regular expression: %s", key, said);
}

/* Does the line match, without the CR of a terminal? A NUL would hide what is behind it. */
static bool line_matches(struct pattern *p, const regex_t *re)
{
	size_t n = p->line.n;

	if (n == 0)
		return false;
	for (char *nul = p->line.p; (nul = memchr(nul, '\0', (size_t)(p->line.p + n - nul)));)
		*nul = '?';
	bool cr = p->line.p[n - 1] == '\r';
	if (cr)
		p->line.p[n - 1] = '\0';
	bool matches = regexec(re, p->line.p, 0, NULL, 0) == 0;
	if (cr)
		p->line.p[n - 1] = '\r';
	return matches;
}

static bool feed_some(struct pattern *p, const regex_t *re, const char *bytes, size_t n)
{
	for (const char *end = bytes + n; bytes < end;) {
		const char *newline = memchr(bytes, '\n', (size_t)(end - bytes));
		size_t piece = (size_t)((newline ? newline : end) - bytes);
		piece = MIN(piece, PATTERN_LINE - p->line.n);
		buf_add(&p->line, bytes, piece);
		bytes += piece;
		bool over = p->line.n == PATTERN_LINE || (bytes < end && *bytes == '\n');
		if (line_matches(p, re))
			return true;
		bytes += bytes < end && *bytes == '\n';
		if (over)
			p->line.n = 0;
	}
	return false;
}

bool pattern_feed(struct pattern *p, const char *bytes, size_t n)
{
	bool matches = false;

	while (n > 0 && !matches) {
		size_t some = MIN(n, (size_t)FRESH);
		regex_t re;
		if (regcomp(&re, p->text, REG_EXTENDED | REG_NOSUB) != 0)
			return false; /* it was checked: memory is out */
		matches = feed_some(p, &re, bytes, some);
		regfree(&re);
		bytes += some;
		n -= some;
	}
	return matches;
}

void pattern_done(struct pattern *p)
{
	buf_done(&p->line);
}
