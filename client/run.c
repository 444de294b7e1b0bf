/*
 * fcm run: a VM for one command, and that joined to our terminal; what `docker run` is for a container.
 */
#include <string.h>
#include <unistd.h>

#include "client/attach.h"
#include "client/create.h"

#define RESTART_DOC "no (the default), on-failure, always, unless-stopped"

static const struct option_row options[] = {
	{"detach", 'd', NULL, NULL, "don't attach; print its name"},
	{"interactive", 'i', NULL, "vm.main.stdin", "give the command our stdin"},
	{"tty", 't', NULL, "vm.main.tty", "give the command a terminal"},
	{"rm", 0, NULL, "vm.auto_remove", "destroy the VM when it has ended"},
	{"workdir", 'w', "DIR", "vm.main.dir", "where the command runs"},
	{"user", 'u', "USER", "vm.main.user", "who runs it: a name or number, USER:GROUP; else root"},
	{"entrypoint", 0, "WORD", "vm.main.entrypoint", "a word before the command's; repeatable"},
	{"read-only", 0, NULL, "vm.main.read_only", "it sees its root read-only"},
	{"tmpfs", 0, "DIR", "vm.main.tmpfs", "an empty directory in memory; repeatable"},
	{"stop-signal", 0, "SIGNAL", "vm.main.stop_signal", "what ends it: TERM (the default), INT, 3, ..."},
	CREATE_OPTIONS,
	{0},
};

static int check(const struct cli *cli, const struct create_options *o, struct fcm_error *err)
{
	const struct main_spec *m = &o->vm.spec.main;

	if (o->vm.spec.auto_remove && strv_has(&cli->given, "vm.restart") && o->vm.spec.restart != RESTART_NO)
		return fcm_fail(err, FCM_USAGE, "run: --rm goes with no --restart but no");
	if (o->detach || o->vm.dry_run)
		return 0;
	if (cli->globals.json)
		return fcm_fail(err, FCM_USAGE, "run: --json goes with -d");
	if (m->tty && m->with_stdin && !isatty(STDIN_FILENO)) {
		fcm_fail(err, FCM_USAGE, "run: stdin isn't a terminal");
		return fcm_hint(err, "leave out -t");
	}
	return 0;
}

/* The image, unless --image has said it: then all words are the command's. */
static const char *image_of(const struct cli *cli)
{
	return cli->argc > 0 && !strv_has(&cli->given, "vm.image") ? cli->argv[0] : NULL;
}

/* What the user leaves out: the words, and a policy that fits them. Of a clone the snapshot decides both. */
static void complete(struct cli *cli, struct create_options *o)
{
	struct main_spec *m = &o->vm.spec.main;
	bool has_image = cli->argc > 0 || strv_has(&cli->given, "vm.image");

	for (int i = image_of(cli) ? 1 : 0; i < cli->argc; i++)
		strv_add(&m->args, cli->argv[i]);
	if (m->args.n)
		strv_add(&cli->given, "vm.main.args");
	if ((has_image || o->vm.spec.auto_remove) && o->snapshot[0] == '\0' &&
		!strv_has(&cli->given, "vm.restart")) {
		o->vm.spec.restart = RESTART_NO;
		strv_add(&cli->given, "vm.restart");
	}
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	struct create_options *o = options_;
	field_json *vm = NULL;
	int r = 0;

	if (check(cli, o, err) < 0)
		return -1;
	complete(cli, o);
	if (create_vm(cli, o, image_of(cli), &vm, err) < 0)
		return -1;
	if (o->detach || o->vm.dry_run || fj_len(fj_get(fj_get(vm, "main"), "args")) == 0)
		create_print(cli, o, vm);
	else
		r = attach_main(cli, vm, o->snapshot[0] || o->vm.spec.main.with_stdin, true, err);
	fj_free(vm);
	return r;
}

const struct command cmd_run = {
	.name = "run",
	.args = "[IMAGE [COMMAND...]]",
	.summary = "make a VM and run a command in it",
	.example = "fcm run --rm -it tiny sh",
	.details = "The VM lives as long as its command, the first process of a machine of its own:\n"
		   "  fcm run --rm tiny uname -a\n"
		   "  fcm run -it --rm tiny sh\n"
		   "  fcm run -d --name web tiny httpd -f -p 80\n"
		   "The exit status is the command's, 128 + N when signal N ended it; 126 and\n"
		   "127 when it can't be run, 125 when fcm itself failed. Signals go to it.\n"
		   "Ctrl-P Ctrl-Q detaches (with -it); fcm attach joins it again, fcm logs shows\n"
		   "what it printed, fcm wait waits for its end. Without an image it is fcm "
		   "create,\nand its policy unless-stopped.\n" READY_DETAILS,
	.max_args = ANY_ARGS,
	.flags = COMMAND_FIRST_ENDS | COMMAND_OWN_STATUS,
	.options = options,
	.fields = create_fields,
	.size = sizeof(struct create_options),
	.run = run,
};
