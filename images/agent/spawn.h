/*
 * A program of the guest, started as somebody.
 *
 * fork(2) and code in the child, since posix_spawn(3) can't change the user nor take a terminal; the agent has one thread, so
 * the child may do anything. It says why it couldn't execute the program through a CLOEXEC pipe, whose end of file says that
 * it could. The agent doesn't wait for that: a directory of a file system that hangs must not stop PID 1.
 */
#pragma once

#include <sys/types.h>

#include "common/core/error.h"
#include "common/core/util.h"
#include "images/agent/user.h"

/* Where the main process lives (mainproc.h): its PID and mount namespaces. */
struct spaces {
	int pid, mnt;
};

struct spawn {
	struct strv argv, env; /* at least one word; PATH of env says where it is looked for */
	struct user user;
	const char *dir; /* NULL: the home, or "/" where that can't be entered */
	bool tty;	 /* stdio is a terminal, which becomes the controlling one */
	int stdio[3];	 /* the program's, CLOEXEC; -1: none */
	int (*run)(const void *
			arg); /* not NULL: what the child does in place of a program; it returns the exit status */
	const void *arg;
	const struct spaces *inside; /* it runs in these namespaces; NULL: in ours */
	bool isolate; /* it is PID 1 of new ones, with a /proc of its own, and `dir` is made where it is missing */
	bool read_only;		  /* it sees the root read-only there, */
	const struct strv *tmpfs; /* with an empty tmpfs at each of these directories; */
	bool (*prepare)(void);	  /* what else is to be done in there, as root; false with errno. Or NULL */
};

/* PATH of an environment, or "". */
const char *spawn_path(const struct strv *env);

/* Free what is in *s, and close stdio. */
void spawn_done(struct spawn *s);

/* Start it in a session of its own. *ret_report is the read end of the pipe, non-blocking. */
int spawn_start(const struct spawn *s, pid_t *ret, int *ret_report, struct fcm_error *err) must_check;

enum spawn_state { SPAWN_LATER, SPAWN_RUNS, SPAWN_FAILED };

/* Look at the report. With SPAWN_FAILED *err and *ret_exit are set: 127 when there is no such program, 126 when it can't be
 * executed, 0 when it didn't come to that. */
enum spawn_state spawn_report(int report, int *ret_exit, struct fcm_error *err);
