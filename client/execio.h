/*
 * The client's end of fcm-stream (docs/API.md): a command in a guest, joined to our stdin, stdout and stderr.
 */
#pragma once

#include "client/api.h"
#include "common/core/error.h"
#include "common/httpc.h"

struct exec_io {
	struct httpc_tunnel *tunnel;
	bool with_stdin; /* it gets ours */
	bool tty;	 /* it has a terminal, which becomes as large as ours */
	bool attached;	 /* it is a main process, which outlives us; ^P ^Q leaves it */
	bool detached;	 /* the user did that */
	bool raw;	 /* and all keys, so a signal to us is meant for us */
};

/*
 * Ask for the stream at path (with a body by POST), make the terminal raw where `raw` says so, and move bytes until the command
 * has ended, or until a signal ends us, which ends it too. *ret_status is what we exit with. Why it couldn't be run is said on
 * stderr (status 126 or 127). FCM_UNAVAILABLE when the daemon went away in the middle, else its own error. body stays the
 * caller's; io->tunnel is ours, and closed.
 */
int exec_io_open(struct api *api, const char *path, const field_json *body, struct exec_io *io,
	int *ret_status, struct fcm_error *err) must_check;
