/*
 * Lend a TCP port to a socket until somebody binds it (placeholder.h tells why and how). Bytecode by hand: 40
 * instructions don't justify a compiler and a library.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* Give connections to `port` to the listening IPv4 TCP socket `listener`, in this network namespace, until
 * any process of the machine binds that port. It lasts as long as this process. */
int giveway_lend(int listener, uint16_t port, struct fcm_error *err) must_check;
