/*
 * The job `snapshot`: a snapshot that comes as one stream, OCI_IN, is unpacked into OCI_DIR: a tar, plain or compressed by zstd, of
 * regular files. In its plan
 *
 *	file=NAME	a file that may be in it, once; nothing else is taken. Repeats.
 *	max=N		bytes of all files together, with their holes
 *
 * It has no results: what the files say, and whether all are there, is the daemon's to see.
 */
#pragma once

#include "daemon/oci/oci.h"

oci_run oci_snapshot;
