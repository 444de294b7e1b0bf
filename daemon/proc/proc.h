/*
 * Processes: spawned without fork() (the daemon has threads and mapped guest memory: posix_spawn(3) only),
 * known by pid + start time + boot id so that a reused pid is never taken for ours, signalled through a
 * pidfd.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* Identity of a process. start_ticks is field 22 of /proc/<pid>/stat (proc(5)); boot_id is that of
 * /proc/sys/kernel/random/boot_id. */
struct proc_id {
	pid_t pid;
	uint64_t start_ticks;
	char boot_id[37];
};

/* This boot's id. */
const char *proc_boot_id(void);

/* The identity of the live process `pid` now. FCM_NOT_FOUND when there is none (zombies count as gone). */
int proc_identify(pid_t pid, struct proc_id *ret, struct fcm_error *err) must_check;

/* A pidfd of that very process, or -1 with FCM_NOT_FOUND when it is gone, was another boot's, or the pid was
 * reused. */
int proc_open(const struct proc_id *id, struct fcm_error *err) must_check;

/* /proc/<pid> of that very process, as a directory: it stays that process's, and is empty once that has ended. Or -1 as with
 * proc_open(). */
int proc_dir(const struct proc_id *id, struct fcm_error *err) must_check;

/* Send a signal through a pidfd; a process that has gone is fine. */
int proc_signal(int pidfd, int sig, struct fcm_error *err) must_check;

/* Wait until the process behind pidfd has ended, and reap it if it is our child. False when the deadline came
 * first. */
bool proc_wait(int pidfd, int64_t deadline);

/* An argument vector of literals, with its NULL: exec(3) writes to none of them, but their type says char *.
 */
#define PROC_ARGV(...) ((char *const *)(const char *const[]){__VA_ARGS__, NULL})

/* A file descriptor of ours and the number that it gets in the child. */
struct proc_fd {
	int fd, as;
};

/* Start argv[0] (an absolute path) with exactly these descriptors (0, 1 and 2 are /dev/null, /dev/null and
 * ours unless listed; `as` is below 64), environment `env` (NULL: PATH only), default signal handling, in a
 * session of its own. Returns a pidfd. */
int proc_spawn(char *const argv[], char *const env[], const struct proc_fd *fds, size_t nfds, pid_t *ret_pid,
	struct fcm_error *err) must_check;

/* Between these two no child is started. For a descriptor that is only good when nobody else has it, such as a TAP that is
 * being made: CLOEXEC closes it at exec, but in the moment between the fork inside posix_spawn() and the exec a child has
 * a copy of everything. Hold it for a few milliseconds at most, and take no other lock meanwhile. */
void proc_hold_spawns(void);
void proc_release_spawns(void);

/* What proc_run() may be told; zero is the default for each. */
struct proc_run {
	char *const *argv;
	char *const *env;
	const void *input; /* for the program's stdin */
	size_t input_n;
	uid_t uid; /* run as that user (through setpriv(1)); 0: as we are */
	gid_t gid;
	int64_t deadline;  /* 0: none */
	size_t output_max; /* bytes of stdout and stderr together that are kept (0: 64 KiB); the rest is read
			      and dropped */
};

/* Run a program to its end. 0 and its output in *output (may be NULL; the caller's) when it exited 0; else -1
 * with FCM_HOST, or FCM_TIMEOUT after killing it, and the last line that it printed in the message. What it
 * left running in its session is killed too. *output is appended to, and its text terminated. */
int proc_run(const struct proc_run *run, struct buf *output, struct fcm_error *err) must_check;
