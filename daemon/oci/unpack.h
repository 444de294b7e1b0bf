/*
 * The job `unpack`: files that come as one stream, OCI_IN, are put into OCI_DIR: a tar, plain or compressed by gzip or zstd, of
 * regular files. In its plan
 *
 *	of=WORD		what they make, for people: "snapshot"
 *	file=NAME	a file that may be in it, once, at its top; nothing else is taken. Repeats.
 *	max=N		bytes of all files together, with their holes
 *
 * It has no results: what the files say, and whether all are there, is the daemon's to see.
 */
#pragma once

#include "daemon/oci/oci.h"

oci_run oci_unpack;
