#include "common/core/log.h"

#include <stdio.h>
#include <string.h>
#include <stdatomic.h>

#include "common/core/clock.h"
#include "common/core/util.h"

static _Atomic int threshold = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
	threshold = level;
}

static const char *level_name(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERROR:
		return "error";
	case LOG_LEVEL_WARN:
		return "warn";
	case LOG_LEVEL_INFO:
		return "info";
	case LOG_LEVEL_DEBUG:
		return "debug";
	}
	return "info";
}

/* The journal sets JOURNAL_STREAM for what it collects (systemd.exec(5)). */
static bool to_journal(void)
{
	return getenv("JOURNAL_STREAM") != NULL;
}

/* Quote for logfmt: backslash and quote escaped, control characters already gone. */
static void quote(char *out, size_t size, const char *s)
{
	size_t n = 0;

	for (; *s && n + 3 < size; s++) {
		if (*s == '"' || *s == '\\')
			out[n++] = '\\';
		out[n++] = *s == '\n' || *s == '\t' ? ' ' : *s;
	}
	out[n] = '\0';
}

void log_line(enum log_level level, const char *vm, const char *fmt, ...)
{
	char msg[1024], quoted[1100], line[1400], prefix[32] = "";
	va_list ap;

	if ((int)level > threshold)
		return;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	msg[fcm_printable(msg, strlen(msg))] = '\0';
	quote(quoted, sizeof quoted, msg);

	if (to_journal())
		snprintf(prefix, sizeof prefix, "<%d>", level);
	else
		snprintf(prefix, sizeof prefix, "%s ", clock_rfc3339(clock_wall()).s);
	int n = snprintf(line, sizeof line, "%slevel=%s%s%s msg=\"%s\"\n", prefix, level_name(level), vm ? " vm=" : "",
		vm ? vm : "", quoted);
	(void)!write(STDERR_FILENO, line, MIN((size_t)n, sizeof line - 1));
}

void log_error(enum log_level level, const char *vm, const struct fcm_error *err)
{
	log_line(level, vm, "%s%s%s%s%s (%s)", err->step, *err->step ? ": " : "", err->field, *err->field ? ": " : "",
		err->msg, fcm_code_info(err->code)->wire);
}
