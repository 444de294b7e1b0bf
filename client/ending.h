/*
 * Signals that end a program, and what it does first. Those that it was told to ignore (nohup(1), a script's background) it
 * goes on to ignore.
 */
#pragma once

#include <signal.h>

/* SIGINT, SIGTERM, SIGHUP and SIGQUIT, but for those that are ignored. */
void ending_signals(sigset_t *ret);

/* From now on these call `undo` before they end the program. It is async-signal-safe (signal-safety(7)) and does nothing while
 * there is nothing to undo; to say it again changes nothing. */
void ending_undo(void (*undo)(void));

/* These call `handler` and end nothing, until ending_instead(NULL). No ending_undo() meanwhile. */
void ending_instead(void (*handler)(int sig));
