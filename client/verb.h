/*
 * Commands that are several: `fcm volume rm` and the like, by their first argument.
 */
#pragma once

#include "client/command.h"

struct verb {
	const char *name;
	const char *aliases; /* other names, separated by spaces, or NULL */
	const char *options; /* keys of the command's options that mean something to it, likewise */
	const char *needs;   /* what it says when it gets another number of arguments: "needs a name" */
	int min, max;
	int (*run)(struct cli *cli, void *options, struct fcm_error *err);
};

/* Run the verb that the first argument names, with the arguments behind it. FCM_USAGE. `verbs` is ended by one without a name. */
int verb_run(struct cli *cli, const struct verb *verbs, void *options, struct fcm_error *err) must_check;
