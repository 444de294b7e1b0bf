/*
 * What other people's nftables do to forwarded packets.
 */
#pragma once

#include "common/core/util.h"

/* From the text of `nft list chains`: the base chains at the hook forward whose policy is drop, "inet filter forward" each. Ours
 * are left out, and those of iptables, which has words of its own for them. Pure. */
void foreign_parse(const char *chains, struct strv *ret);
