#include "common/core/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

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

/* JOURNAL_STREAM names the stream that the journal reads. A program that runs in a terminal inside of a service has the
 * variable too, hence the comparison. */
static bool to_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;

	return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
	       fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

/* One entry: a datagram of KEY=value lines (systemd.io/JOURNAL_NATIVE_PROTOCOL). No value holds a newline. */
static bool send_entry(enum log_level level, const char *vm, const char *line)
{
	static const struct sockaddr_un journal = {AF_UNIX, "/run/systemd/journal/socket"};
	char entry[1600];
	auto_close int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 ||
		!fcm_format(entry, sizeof entry, "PRIORITY=%d\nSYSLOG_IDENTIFIER=%s\n%s%s%sMESSAGE=%s\n",
			level, program_invocation_short_name, vm ? "FCM_VM=" : "", vm ? vm : "",
			vm ? "\n" : "", line))
		return false;
	size_t n = strlen(entry);
	return sendto(fd, entry, n, MSG_NOSIGNAL, (const struct sockaddr *)&journal, sizeof journal) ==
	       (ssize_t)n;
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
	char msg[1024], quoted[1100], line[1400];
	va_list ap;

	if ((int)level > threshold)
		return;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	fcm_make_printable(msg);
	quote(quoted, sizeof quoted, msg);

	bool journal = to_journal();
	fcm_format(line, sizeof line, "level=%s%s%s msg=\"%s\"", level_name(level), vm ? " vm=" : "",
		vm ? vm : "", quoted);
	if (journal && send_entry(level, vm, line))
		return;
	/* sd-daemon(3): the journal reads a priority in front of a line */
	if (journal)
		dprintf(STDERR_FILENO, "<%d>%s\n", level, line);
	else
		dprintf(STDERR_FILENO, "%s %s\n", clock_rfc3339(clock_wall()).s, line);
}

void log_error(enum log_level level, const char *vm, const struct fcm_error *err)
{
	log_line(level, vm, "%s%s%s%s%s (%s)", err->step, *err->step ? ": " : "", err->field,
		*err->field ? ": " : "", err->msg, fcm_code_info(err->code)->wire);
}
