/*
 * The job `pack`: what a VM changed becomes a layer. In its plan
 *
 *	exclude=PATTERN ...	names that don't belong to an image, with what is below them: glob(7), "/" only meets itself
 *
 * OCI_IN is the VM's disk, whose directory `upper` is the overlay's (the kernel's Documentation/filesystems/overlayfs); in OCI_DIR it
 * leaves <diff_id>.tar, as the OCI image specification has layers (layer.md), the same bytes for the same disk. Its results:
 *
 *	layer=DIFF_ID entries=N bytes=N		N bytes as the tar has them
 */
#pragma once

#include "daemon/oci/oci.h"

oci_run oci_pack;

/* Its work: of the disk a tar. */
int pack_disk(const struct oci_job *job, int disk_fd, int out_fd, struct buf *ret,
	struct fcm_error *err) must_check;
