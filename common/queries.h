/*
 * What may stand in the query of a route (common/routes.def): names and kinds, for the router, which refuses all others, and for
 * docs/openapi.yaml. Handlers read the values themselves.
 */
#pragma once

#include "common/field.h"

extern const struct field vms_query[], vm_query[], destroy_query[], logs_query[], wait_query[],
	attach_query[], files_query[], put_query[], console_query[], tunnel_query[], events_query[],
	ref_query[], export_query[], import_query[], snapshot_import_query[];
