/*
 * What is done with images that are there: fcm image rm, tag, prune, inspect, history.
 */
#pragma once

#include "client/command.h"

/* Is it one that fcm image build makes here? */
bool image_is_ours(const char *name);

/* Remove each argument; each has its own result. */
int image_rm(struct cli *cli, struct fcm_error *err) must_check;

/* Give one more name to an image. */
int image_tag_as(struct cli *cli, const char *image, const char *name, struct fcm_error *err) must_check;

/* Remove what no VM uses: what has no name, with `all` what has one, too. */
int image_prune_all(struct cli *cli, bool all, struct fcm_error *err) must_check;

/* All about one, as JSON. */
int image_inspect(struct cli *cli, const char *image, struct fcm_error *err) must_check;

/* How it came to be, the last step first. */
int image_show_history(struct cli *cli, const char *image, struct fcm_error *err) must_check;
