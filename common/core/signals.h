/*
 * Signals by their names, as people and Dockerfiles write them.
 */
#pragma once

enum { SIGNAL_MAX = 64 }; /* of Linux on x86: signal(7) */

/* The number of "SIGTERM", "term", "15", "RTMIN+3" or "SIGRTMAX-2"; 0 when it is none. Real-time signals are counted from the C
 * library's SIGRTMIN, 34, as docker and systemd count them. */
unsigned signal_parse(const char *s);
