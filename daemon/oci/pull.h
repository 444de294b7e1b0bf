/*
 * The job `pull`: an image of a registry. Its plan:
 *
 *	ref=TEXT		a whole reference (common/core/ref.h)
 *	platform=TEXT		"linux/amd64"
 *	user=TEXT password=TEXT	or token=TEXT; where the request brought them
 *	mirror=URL		any number, "https://HOST[:PORT]": asked first, in this order, without the credentials
 *	insecure=HOST[:PORT]	any number: these are spoken to in plain http, and at any address
 *	pool=A.B.C.D/N		the network of the VMs, refused as this host's own addresses are
 *
 * OCI_DIR gets manifest.json and config.json, exactly as they came, and <diff_id>.tar of each layer that OCI_LAYERS doesn't
 * have; all digests and sizes are verified, and layers that are wrong aren't there. What a mirror gave stays when another place
 * has to go on. Three layers come at a time, each on a thread. Results: id=HEX (of the config), digest=HEX (of what the reference
 * names: an index where there is one), layer=HEX (diff_id) of each layer, lowest first.
 *
 * The job `check`: does a registry take these credentials? Its plan has registry=HOST[:PORT] and, as above, user, password,
 * insecure and pool. No directory, no results.
 */
#pragma once

#include "daemon/oci/oci.h"

oci_run oci_pull;
oci_run oci_check;
