/*
 * What net_init() was given, for the other files of this folder. Zero before; it doesn't change afterwards.
 */
#pragma once

#include "daemon/net/net.h"

/* The config; its list of resolvers is the copy. */
const struct net_config *net_config(void);

/* The state directory; NULL before net_init(). */
const char *net_run_dir(void);
