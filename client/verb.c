#include "client/verb.h"

#include <string.h>

static int fail_unknown(const struct cli *cli, const struct verb *verbs, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf all = {0};

	for (size_t i = 0; verbs[i].name; i++)
		buf_printf(&all, "%s%s", i == 0 ? "" : verbs[i + 1].name ? ", " : " or ", verbs[i].name);
	fcm_fail(err, FCM_USAGE, "there is no 'fcm %s %s'", cli->command->name, cli->argv[0]);
	return fcm_hint(err, "fcm %s %s", cli->command->name, all.p);
}

static int check(const struct cli *cli, const struct verb *v, struct fcm_error *err)
{
	const struct command *c = cli->command;

	if (cli->argc < v->min || cli->argc > v->max)
		return fcm_fail(err, FCM_USAGE, "%s %s %s", c->name, v->name, v->needs);
	for (size_t i = 0; i < cli->given.n; i++)
		if (!words_have(v->options, cli->given.v[i]))
			return fcm_fail(err, FCM_USAGE, "%s %s doesn't take --%s", c->name, v->name,
				options_name(c->options, cli->given.v[i]));
	return 0;
}

int verb_run(struct cli *cli, const struct verb *verbs, void *options, struct fcm_error *err)
{
	const struct verb *v = verbs;

	while (v->name && strcmp(v->name, cli->argv[0]) != 0 && !words_have(v->aliases, cli->argv[0]))
		v++;
	if (v->name == NULL)
		return fail_unknown(cli, verbs, err);
	cli->argc--;
	cli->argv++;
	return check(cli, v, err) < 0 ? fcm_hint(err, "fcm %s --help", cli->command->name)
				      : v->run(cli, options, err);
}
