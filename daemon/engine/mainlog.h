/*
 * What a VM's main process prints, on the host: <id>/main.log, and what was before it in main.log.1.
 *
 * A record has a head, which says where its bytes stand in all that this boot's process printed; so a daemon that begins again
 * knows from the file what it has, and asks the agent for what follows: nothing is lost or doubled as long as the agent's
 * ring has it. A record that was cut by a crash is cut off. Both files have an end: the older one goes.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/frame.h"
#include "common/core/util.h"

struct vm;

enum { MAINLOG_FILE = 4 << 20, MAINLOG_RECORD = FRAME_MAX };

/* Begin to collect, on the loop; nothing for a VM without a main process, or where it is done already. Called by the holder of
 * the busy slot when the guest is set up, and mainlog_unwatch() as well. */
int mainlog_watch(struct vm *vm, struct fcm_error *err) must_check;
void mainlog_unwatch(struct vm *vm);

/* The head of a record, as it stands in the file: this machine's own byte order. */
struct mainlog_head {
	uint32_t magic;
	uint16_t n;	 /* bytes that follow */
	uint8_t channel; /* enum frame_channel */
	uint8_t zero;
	uint64_t boot; /* the VM's count of boots */
	uint64_t pos;
	int64_t time;
};

/* Reads both files from the beginning, and then what comes. Zero-initialised but for `fd`, -1, is the start. */
struct mainlog_reader {
	int fd;
	bool second; /* fd is main.log, or was */
	uint64_t at;
};

/* The next record, into *head and *data (MAINLOG_RECORD bytes). False when there is none yet. `dirfd` is the VM's directory. */
bool mainlog_next(struct mainlog_reader *r, int dirfd, struct mainlog_head *head, char *data);
void mainlog_reader_done(struct mainlog_reader *r);

/* The last n bytes of all that is there, appended to *ret. */
void mainlog_tail(int dirfd, size_t n, struct buf *ret);

/* Split what the agent answered into records of the log (appended to *ret). Returns the bytes that the process printed, -1 when
 * it makes no sense. Pure. */
int64_t mainlog_records(const void *p, size_t n, uint64_t boot, uint64_t pos, int64_t now, struct buf *ret);
