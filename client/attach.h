/*
 * Our stdin, stdout and stderr joined to the main process of a VM.
 */
#pragma once

#include "client/command.h"

/* Attach to the main process of the VM `vm`, the API's object; `logs`: show what it has printed in this run first. cli->status
 * becomes its exit status, 0 when the user has detached. */
int attach_main(
	struct cli *cli, const field_json *vm, bool with_stdin, bool logs, struct fcm_error *err) must_check;
