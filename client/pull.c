/*
 * fcm pull: an image from a registry.
 */
#include <string.h>

#include "client/out.h"
#include "client/pull.h"
#include "client/term.h"

int pull_image(struct cli *cli, const char *image, field_json **ret, struct fcm_error *err)
{
	auto_json field_json *body = fj_object();

	fj_set_str(body, "image", image);
	term_progress("pull %s", image);
	int r = api_change(cli->api, "POST", "/v1/images/pull", body, NULL, ret, err);
	term_progress_end();
	return r;
}

static int pull_one(struct cli *cli, const char *image, void *options_, struct fcm_error *err)
{
	auto_json field_json *answer = NULL;
	_cleanup_(buf_done) struct buf size = {0};

	(void)options_;
	if (pull_image(cli, image, &answer, err) < 0)
		return -1;
	out_bytes(&size, fj_get_int(answer, "on_disk", 0));
	out_result(cli, fj_get_str(answer, "digest"), answer, "%s", size.p);
	return 0;
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, pull_one, options_);
}

const struct command cmd_pull = {
	.name = "pull",
	.args = "IMAGE...",
	.summary = "get an image from a registry",
	.details = "IMAGE is a name as docker reads it: nginx, nginx:1.25, ghcr.io/owner/name:tag,\n"
		   "name@sha256:... It prints the image's id. A layer that is here isn't fetched.\n"
		   "Registries without TLS: insecure_registries in the daemon's config.",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.run = run,
};
