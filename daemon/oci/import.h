/*
 * The job `import`: an image that comes as one stream, OCI_IN. Its plan:
 *
 *	platform=TEXT	"linux/amd64"
 *	created=TEXT	the time, RFC 3339: for a config that is made here
 *	config=JSON	of such a config what says how the image runs, an object ("Cmd", "Env", ...); or none
 *
 * The stream, plain or compressed, is one of
 *
 *	kind=oci	a tar of an OCI image layout
 *	kind=docker	a docker archive
 *	kind=tree	a tar of a root file system: one layer, whose config is made here
 *	kind=ext4	a file system as it is
 *
 * OCI_DIR gets config.json, exactly as it came or was made, and <diff_id>.tar of each layer that OCI_LAYERS doesn't have; all digests
 * and sizes that the archive gives are verified. Of an ext4 OCI_OUT gets the file system, and there is no config. `stream` and
 * `blob` are left there only by a failure. Results: kind=, id=HEX (of the config, or of the file system), layer=HEX (diff_id) of each layer,
 * lowest first, name=TEXT (a whole reference) of each name that the archive has for it.
 */
#pragma once

#include "daemon/oci/oci.h"

oci_run oci_import;
