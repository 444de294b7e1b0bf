/*
 * The job `merge`: the layers of the plan, lowest first, become one ext4 in OCI_OUT. Results: size (bytes of the file system)
 * and entries (how many were read). The same layers give the same bytes.
 */
#pragma once

#include "daemon/oci/oci.h"

oci_run oci_merge;

/* The same, into any regular file. */
int merge_layers(const struct oci_job *job, int out_fd, struct buf *ret, struct fcm_error *err) must_check;
