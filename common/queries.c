#include "common/queries.h"

/* Rows of field tables without a struct. */
#define Q(key_, type_, ...)                                                                                  \
	{                                                                                                    \
		.key = (key_), .type = (type_), .doc = __VA_ARGS__                                           \
	}
#define FOLLOW Q("follow", FIELD_BOOL, "go on with what comes")
#define SINCE Q("since", FIELD_CHARS, "a time (RFC 3339, UTC), or how long ago: 90s, 5m, 2h, 3d")
#define REF Q("ref", FIELD_CHARS, "the image: a name, or an id", .flags = FIELD_REQUIRED)

static const char *const show_names[] = {"env", NULL};
static const char *const source_names[] = {"console", "main", NULL};
static const char *const input_names[] = {"wait", "now", "no", NULL};
static const char *const wait_names[] = {"creating", "stopped", "starting", "running", "paused", "suspending",
	"suspended", "stopping", "failed", "destroying", "ended", "removed", NULL};

const struct field vms_query[] = {
	Q("state", FIELD_CHARS, "any of these states, with commas between them"),
	Q("name", FIELD_CHARS, "a pattern of the shell", .max = 128),
	Q("label", FIELD_STRV, "it has that label, K or K=V; may come several times", .max = 16),
	FIELD_END,
};
const struct field vm_query[] = {
	Q("show", FIELD_ENUM, "with the values of env", .names = show_names), FIELD_END};
const struct field destroy_query[] = {
	Q("force", FIELD_BOOL, "at once, without asking the guest"),
	Q("dry_run", FIELD_BOOL, "only say what would be done"),
	FIELD_END,
};
const struct field logs_query[] = {
	Q("tail", FIELD_U32, "that many lines, the last ones", .max = 100000),
	SINCE,
	Q("timestamps", FIELD_BOOL, "with the time of each line"),
	FOLLOW,
	Q("source", FIELD_ENUM, "the serial console, or what the main process printed",
		.names = source_names),
	FIELD_END,
};
const struct field wait_query[] = {
	Q("state", FIELD_ENUM, "what is waited for; running when left out", .names = wait_names),
	Q("timeout", FIELD_U32, "seconds", .max = 86400),
	FIELD_END,
};
const struct field attach_query[] = {
	Q("stdin", FIELD_BOOL, "and its stdin"),
	Q("logs", FIELD_BOOL, "from the beginning of this run"),
	FIELD_END,
};
const struct field files_query[] = {
	Q("path", FIELD_CHARS, "in the VM, from /", .flags = FIELD_REQUIRED), FIELD_END};
const struct field put_query[] = {
	Q("path", FIELD_CHARS, "a directory in the VM, from /", .flags = FIELD_REQUIRED),
	Q("place", FIELD_BOOL, "put the one thing in the archive where cp(1) would"),
	FIELD_END,
};
const struct field console_query[] = {
	Q("input", FIELD_ENUM, "who types: wait for one's turn, refuse without it, or only watch",
		.names = input_names),
	FIELD_END,
};
const struct field tunnel_query[] = {
	Q("port", FIELD_U32, "of the VM; 22 when left out", .min = 1, .max = 65535), FIELD_END};
const struct field events_query[] = {
	FOLLOW,
	SINCE,
	Q("vm", FIELD_CHARS, "only of this VM: a name or an id"),
	Q("event", FIELD_CHARS, "only of this name"),
	Q("after", FIELD_I64, "only what came behind this number"),
	FIELD_END,
};
const struct field ref_query[] = {REF, FIELD_END};
const struct field export_query[] = {REF, Q("raw", FIELD_BOOL, "the file system as it is"), FIELD_END};
const struct field import_query[] = {
	Q("name", FIELD_CHARS, "what it is called then"),
	Q("config", FIELD_CHARS, "JSON: how an image that is a root file system runs"),
	FIELD_END,
};
const struct field snapshot_import_query[] = {
	Q("name", FIELD_CHARS, "what it is called then; else as it was", .max = 63), FIELD_END};
