/*
 * What net_init() was given, for the other files of this folder. Zero before; it doesn't change afterwards.
 */
#pragma once

#include "daemon/net/net.h"

const struct net_config *net_config(void);
const char *net_state_dir(void);
