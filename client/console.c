/*
 * fcm console: the serial console of a VM, as it is. What the guest writes reaches the terminal unchanged, as with any
 * console: fcm logs is the harmless way to look.
 */
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "client/command.h"
#include "client/out.h"
#include "client/session.h"
#include "client/term.h"
#include "common/core/clock.h"

enum {
	LEAVE = 0x1d,	 /* Ctrl-], as in telnet and virsh */
	QUIET_MS = 2000, /* after the end of a script's input */
	END_MS = 500,	 /* until the daemon knows that the VM has ended */
};

/* What a guest may have left behind: colours, a hidden cursor. */
static const char mend[] = "\033[0m\033[?25h\r\n";

struct console_options {
	bool read_only;
};

static const struct field console_fields[] = {
	F(struct console_options, read_only, FIELD_BOOL),
	FIELD_END,
};

static const struct option_row options[] = {
	{"read-only", 0, NULL, "read_only", "only watch"},
	{0},
};

/* The guest's side has ended. That is as it should be when the VM did. */
static int why_ended(struct cli *cli, struct fcm_error *err)
{
	auto_free char *path = api_vm_path(cli->argv[0], "");
	field_json *v = NULL;

	clock_sleep(END_MS);
	if (api_get(cli->api, path, &v, err) < 0)
		return fcm_wrap(err, "the console ended");
	const char *state = fj_get_str(v, "state"), *name = fj_get_str(v, "name");
	bool runs = state && (strcmp(state, "running") == 0 || strcmp(state, "starting") == 0);
	if (runs) {
		fcm_fail(err, FCM_UNAVAILABLE, "the console of '%s' ended, and the VM runs", name);
		fcm_hint(err, "fcm console %s", name);
	} else {
		out_hint("%s is %s", name, state);
	}
	fj_free(v);
	return runs ? -1 : 0;
}

static int attach(struct cli *cli, bool read_only, struct fcm_error *err)
{
	bool keys = isatty(STDIN_FILENO);
	struct session s = {
		.in = STDIN_FILENO, .out = STDOUT_FILENO, .leave = SESSION_NO_KEY, .mute = read_only};
	struct httpc_tunnel *tunnel = NULL;

	/* a script's input must not be lost while somebody else types */
	auto_free char *path = api_vm_path(cli->argv[0], read_only ? "/console?input=no"
							 : keys	   ? "/console?input=wait"
								   : "/console?input=now");
	if (keys)
		s.leave = LEAVE;
	else if (read_only)
		s.in = -1;
	else
		s.quiet_ms = QUIET_MS;
	if (api_upgrade(cli->api, path, NULL, "fcm-console", &tunnel, err) < 0)
		return -1;
	out_hint("%s %s%s", read_only ? "watching" : "connected to", cli->argv[0],
		keys ? "; Ctrl-] detaches" : "");
	if (keys)
		signal(SIGPIPE, SIG_IGN); /* it would leave the terminal raw */
	int r = keys ? term_raw(STDIN_FILENO, read_only, err) : 0;
	if (r == 0)
		r = session_run(&s, tunnel, err);
	if (keys && isatty(STDOUT_FILENO))
		(void)!write(STDOUT_FILENO, mend, sizeof mend - 1);
	term_raw_end();
	httpc_tunnel_free(tunnel);
	return r;
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	const struct console_options *o = options_;
	int r = attach(cli, o->read_only, err);

	return r == SESSION_ENDED ? why_ended(cli, err) : r == SESSION_LEFT ? 0 : -1;
}

const struct command cmd_console = {
	.name = "console",
	.args = "VM",
	.summary = "the serial console of a VM",
	.example = "fcm console web",
	.details = "Ctrl-] detaches. Our images give a root shell there at the first Enter.\n"
		   "Several may watch, and one of them types: who came first.\n"
		   "What a script writes to stdin is typed; then fcm leaves after 2 quiet seconds:\n"
		   "  printf '\\nuptime\\n' | fcm console web\n"
		   "What the guest writes reaches the terminal as it is; fcm logs makes it harmless.",
	.min_args = 1,
	.max_args = 1,
	.options = options,
	.fields = console_fields,
	.size = sizeof(struct console_options),
	.run = run,
};
