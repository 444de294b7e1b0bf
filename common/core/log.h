/*
 * The daemon's log: one logfmt line on stderr each. Where stderr is the journal (systemd.exec(5), JOURNAL_STREAM) a line
 * is an entry of its native protocol instead, with the VM as a field: journalctl FCM_VM=<id>. Libraries below engine/
 * don't log: they return errors.
 */
#pragma once

#include "common/core/error.h"

enum log_level { LOG_LEVEL_ERROR = 3, LOG_LEVEL_WARN = 4, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7 };

/* Lines above `level` are dropped. The default is LOG_LEVEL_INFO. */
void log_set_level(enum log_level level);

/* One line: `vm=<id>` when vm isn't NULL, then msg="...". Text is made printable; at most 1 KiB. */
void log_line(enum log_level level, const char *vm, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* The same for an error: code, step, field and message. */
void log_error(enum log_level level, const char *vm, const struct fcm_error *err);

#define log_info(...) log_line(LOG_LEVEL_INFO, NULL, __VA_ARGS__)
#define log_warn(...) log_line(LOG_LEVEL_WARN, NULL, __VA_ARGS__)
