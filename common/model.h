/*
 * The structs that are on the wire and on disk, with their field tables: what daemon and client agree on.
 */
#pragma once

#include <netinet/in.h>

#include "common/core/names.h"
#include "common/core/ref.h"
#include "common/field.h"

enum vm_state {
	VM_CREATING,
	VM_STOPPED,
	VM_STARTING,
	VM_RUNNING,
	VM_PAUSED,
	VM_SUSPENDING,
	VM_SUSPENDED,
	VM_STOPPING,
	VM_FAILED,
	VM_DESTROYING,
	VM_STATES
};
extern const char *const vm_state_names[];

/* Has a VM in this state a VMM, or is it about to have one, or still has one? */
bool vm_state_up(enum vm_state state);

/* The command that makes a VM in this state run, for hints: "start", "resume". */
const char *vm_state_verb(enum vm_state state);

enum vm_restart { RESTART_NO, RESTART_ON_FAILURE, RESTART_ALWAYS, RESTART_UNLESS_STOPPED };
extern const char *const vm_restart_names[];

enum vm_desired { WANT_STOPPED, WANT_RUNNING };
extern const char *const vm_desired_names[];

/* Limits of a VM; the daemon's config may be narrower. */
enum {
	VM_MAX_VCPUS = 32,
	VM_MIN_MEM_MIB = 64,
	VM_MAX_MEM_MIB = 1 << 20,
	VM_MIN_DISK_MIB = 64,
	VM_MAX_DISK_MIB = 16 << 20,
	VM_MAX_KEYS = 32,
	VM_MAX_ENV = 128,
	VM_MAX_LABELS = 64,
	VM_MAX_VOLUMES = 8,		/* a drive each: what a VMM has room for */
	VM_MAX_ENV_BYTES = 16 << 10,	/* of all "K=V" together: they travel to the guest in one frame */
	VM_MAX_LABEL_BYTES = 255,	/* of one value */
	VM_MAX_LABELS_BYTES = 15 << 10, /* of all "K=V" together: so do they, and JSON may double them */
	VM_MAX_MAIN_BYTES = 12 << 10,	/* of the words of its main process: with env they are one frame */
	VM_MAX_TMPFS = 32,
	VM_MAX_STOP_SECONDS = 3600,
	READY_MAX_SECONDS = 3600,
	PROBE_MAX_SECONDS = 600,    /* of one question to the guest */
	PROBE_MAX_COMMAND = 4096,   /* bytes */
	HEALTH_MAX_SECONDS = 86400, /* between two questions */
	HEALTH_MAX_RETRIES = 1000,
	TOKEN_MAX_SECONDS = 10 * 365 * 86400,
	HEALTH_INTERVAL = 30, /* the defaults */
	HEALTH_TIMEOUT = 5,
	HEALTH_RETRIES = 3,
	EXEC_MAX_WORDS = 1024,	  /* they travel to the guest in one frame, too */
	EXEC_MAX_INPUT = 1 << 20, /* bytes */
	EXEC_MAX_SECONDS = 7 * 86400,
	EXEC_MAX_ROWS = 1000, /* and columns */
	CLONE_MAX = 64,	      /* of one request */
};

/* When a start is done (docs/API.md, "Readiness"). READY_AUTO: the guest is set up, and where the image has an ssh server,
 * that answers. */
enum ready_mode {
	READY_AUTO,
	READY_NONE,
	READY_AGENT,
	READY_SSH,
	READY_TCP,
	READY_HTTP,
	READY_LOG,
	READY_EXEC,
};
extern const char *const ready_mode_names[];

struct ready_spec {
	enum ready_mode mode;
	uint32_t port; /* of tcp */
	char *url, *log,
		*exec; /* of http, log (a pattern, common/pattern.h), exec (a line for /bin/sh); or NULL */
	uint32_t timeout, interval; /* seconds; 0: boot_seconds of the config, a fraction of a second */
};
extern const struct field ready_fields[];

/* Does it say anything? */
bool ready_given(const struct ready_spec *r);
void ready_copy(struct ready_spec *dst, const struct ready_spec *src);

/* What is asked again and again while a VM runs: a line for /bin/sh, a program, or a URL; nothing when there is none of them. The
 * numbers are 0 in a request that leaves them out, and never in a VM that has something to ask. */
struct health_spec {
	uint32_t interval, timeout, retries; /* seconds, seconds, failures in a row */
	uint32_t start_period;		     /* seconds in which failures don't count */
	char *cmd, *http;
	struct strv args; /* the program */
	bool disable;	  /* of a request: ask nothing, whatever the image says */
};
extern const struct field health_fields[];

/* Does it say what to ask? */
bool health_given(const struct health_spec *h);

enum health { HEALTH_NONE, HEALTH_STARTING, HEALTH_HEALTHY, HEALTH_UNHEALTHY };
extern const char *const health_names[];

/* What the VM is there for: a program, whose end is its own. Nothing when there are no words. */
struct main_spec {
	struct strv args;	/* the words */
	struct strv entrypoint; /* of a request: they come before those */
	char *dir, *user;	/* or NULL */
	bool tty, with_stdin;	/* on the wire "stdin" */
	bool read_only;		/* it sees its root so */
	struct strv tmpfs;	/* directories */
	uint32_t stop_signal;	/* 0: SIGTERM */
};
extern const struct field main_fields[];

/* Does it say anything? */
bool main_given(const struct main_spec *m);

/* What a user asks for: the body of POST /v1/vms and the spec part of config.json. */
struct vm_spec {
	char name[64]; /* "" in a request: choose one */
	uint32_t vcpus;
	uint32_t mem_mib;
	uint32_t disk_mib;
	char image[REF_TEXT]; /* as the user wrote it */
	char kernel[64];
	enum vm_restart restart;
	struct strv env;      /* "K=V" */
	struct strv labels;   /* "K=V" */
	struct strv ssh_keys; /* lines of authorized_keys */
	struct strv publish;  /* ports, common/core/publish.h */
	struct strv volumes;  /* common/core/volume.h; in a VM each has a name, sorted by path */
	uint32_t expose_port; /* on the wire "expose": 8000; 0: none */
	struct ready_spec ready;
	struct health_spec health;
	struct main_spec main;
	bool auto_remove;  /* it goes when it has ended */
	char hostname[64]; /* "": the VM's name */
	bool hold;	   /* its main process waits for a start of its own */
	bool publish_all;  /* of a request: the ports that the image names, too, */
	bool expose_image; /* and: the only one of them is expose_port */
};

/* Copy what *src owns. *dst holds nothing yet. */
void vm_spec_copy(struct vm_spec *dst, const struct vm_spec *src);

/* The body of POST /v1/vms: a spec, and what is done besides. */
struct vm_create {
	struct vm_spec spec;
	char save_snapshot[64]; /* take a snapshot of that name once it is up; "": none */
	bool dry_run;
};

struct vm_expose {
	uint32_t port; /* 0: not exposed */
	char domain[254];
	char status[16]; /* "", "pending", "active" */
	char reason[160];
};

struct vm_reason {
	char code[40];
	char step[24];
	char message[384];
	int64_t time;
};

/* What it has from its next start on, where that is something else; both or none are 0. */
struct vm_next {
	uint32_t vcpus, mem_mib;
};

/* How its main process ended; nothing while it runs. */
struct vm_exited {
	int64_t time;
	uint32_t code; /* 0 to 255; 128 and the signal's number */
};

/* How the health of a VM is, while it runs: not kept on disk. */
struct vm_health {
	enum health status;
	uint32_t failing;  /* in a row */
	char message[160]; /* why the last one failed, or "" */
};

/* A VM as the API shows it and as config.json keeps it: the seed's keys first. */
struct vm_view {
	char id[9];
	char name[64];
	struct in_addr ip;
	enum vm_state state;
	struct vm_expose expose;
	uint32_t schema;
	enum vm_desired desired;
	struct vm_spec spec; /* encoded flat beside the others, without name and expose */
	struct vm_next next;
	struct vm_reason reason;
	int64_t created, started; /* started: 0 unless running */
	char vmm[16];		  /* driver */
	char accel[8];
	char vmm_reason[160]; /* why this driver or accelerator */
	uint32_t uid;
	int64_t vmm_pid;
	char mac[18];
	char boot_id[37];
	char host_key[120]; /* "ssh-ed25519 AAAA..." for known_hosts */
	int64_t boots;
	int64_t disk_used; /* bytes */
	struct vm_exited exited;
	bool throwaway;		  /* of a build: it goes with who made it */
	char snapshot[9];	  /* the id of the snapshot that it began as, or went back to last; or "" */
	struct image_id image_id; /* what spec.image meant when the VM was made */
	struct strv image_ports;  /* that the image names: "80/tcp" */
};

/* struct vm_create, the wire's keys: name cpus memory disk image ... Encoding leaves out what is 0 or empty, but for
 * restart. */
extern const struct field vm_create_fields[];

/* struct vm_view, keys in the order of docs/API.md. config.json is this table with its secrets shown, read in mode
 * FIELD_DISK. `spec.name` and `spec.expose_port` are not in it. */
extern const struct field vm_view_fields[];

/* The VM object of the API: vm_view_fields and what is derived from them (expose.url). `show_env`: env in the clear. The
 * caller's value. */
field_json *vm_view_json(const struct vm_view *vm, bool show_env);

/* Add to the VM object how its health is; nothing where nobody looks. */
void vm_json_health(field_json *vm, const struct vm_health *h);

/* What a request that doesn't say gets: [defaults] of the daemon's config. */
struct vm_defaults {
	uint32_t vcpus, mem_mib, disk_mib;
	char image[REF_TEXT], kernel[64];
	enum vm_restart restart;
};
extern const struct field vm_defaults_fields[];

/* A request before it is decoded: `d` and nothing else. */
void vm_spec_defaults(struct vm_spec *ret, const struct vm_defaults *d);

/* Checks of field tables (value: char[]), for tables that keep such names elsewhere. */
int model_check_asset(const void *value, const char *key, struct fcm_error *err);
int model_check_image(const void *value, const char *key, struct fcm_error *err);
int model_check_domain(const void *value, const char *key, struct fcm_error *err); /* "" is allowed */

/* Body of PUT /v1/vms/{vm}/expose. */
struct expose_request {
	uint32_t port;
	char domain[254]; /* "": <name>.<dashed ip>.sslip.io or below the configured domain */
};
extern const struct field expose_request_fields[];

/* Body of PATCH /v1/vms/{vm}: what is empty stays as it is. */
struct update_request {
	char name[64];
	uint32_t vcpus, mem_mib;
	char restart[16];	   /* one of vm_restart_names */
	struct strv labels;	   /* "K=V": new ones, or other values */
	struct strv remove_labels; /* keys; one that isn't there is none */
};
extern const struct field update_request_fields[];

/* Body of POST /v1/vms/{vm}/start. */
struct start_request {
	struct ready_spec ready; /* for this start, in place of the VM's own */
};
extern const struct field start_request_fields[];

/* Body of POST /v1/vms/{vm}/stop and restart. */
struct stop_request {
	uint32_t time; /* seconds to wait for the guest, then force */
};
extern const struct field stop_request_fields[];

/* Body of POST /v1/vms/{vm}/kill. */
struct kill_request {
	uint32_t signal; /* for the main process; 0 and SIGKILL: the VM itself is ended */
};
extern const struct field kill_request_fields[];

/* Body of POST /v1/vms/{vm}/exec. */
struct exec_request {
	struct strv cmd;
	struct strv env; /* "K=V", beside what the VM has */
	char *workdir;	 /* or NULL */
	char *user;	 /* name or number, "user:group"; NULL: root */
	bool tty;
	bool with_stdin; /* on the wire "stdin": it comes on the stream */
	char *input;	 /* what stdin is where there is no stream; NULL: empty */
	bool detach;
	uint32_t timeout;    /* seconds; 0: none */
	uint32_t rows, cols; /* of the terminal; 0: the agent's own choice */
};
extern const struct field exec_request_fields[];

/* Body of POST /v1/vms/{vm}/publish and unpublish. */
struct publish_request {
	struct strv publish;
};
extern const struct field publish_request_fields[], unpublish_request_fields[];

/* Body of POST /v1/vms/{vm}/snapshots. */
struct snapshot_request {
	char name[64]; /* "": choose one */
	char note[256];
	bool disk_only; /* without memory: what begins with it boots */
	bool stop;	/* the VM ends once it is saved */
};
extern const struct field snapshot_request_fields[];

/* Body of POST /v1/vms/{vm}/clone and /v1/snapshots/{snapshot}/clone. */
struct clone_request {
	char name[64]; /* "": choose one; of several "<name>-1" and so on */
	uint32_t count;
	struct strv publish;
	uint32_t expose_port;
	bool disk_only, auto_remove;
	struct ready_spec ready;
};
extern const struct field clone_request_fields[];

/* Body of POST /v1/vms/{vm}/restore. */
struct restore_request {
	char snapshot[64]; /* its name or id */
	bool disk_only;
};
extern const struct field restore_request_fields[];

/* Body of POST /v1/volumes. */
struct volume_request {
	char name[64];	   /* "": choose one */
	uint32_t size_mib; /* 0: that of a VM's disk */
};
extern const struct field volume_request_fields[];

/* Body of PUT /v1/vms/{vm}/ssh-keys: keys to add. */
struct keys_request {
	struct strv keys;
};
extern const struct field keys_request_fields[];

/* Body of POST /v1/images/tag: one more name for an image. */
struct tag_request {
	char image[REF_TEXT], tag[REF_TEXT];
};
extern const struct field tag_request_fields[];

/* Body of POST /v1/images/prune. */
struct prune_request {
	bool all; /* those with names, too */
};
extern const struct field prune_request_fields[];

/* What VMs are, as registries write it. */
#define IMAGE_PLATFORM "linux/amd64"

/* The user whose password is an identity token: docker-credential-helpers' README ("<token>"). */
#define REGISTRY_IDENTITY "<token>"

/* Body of POST /v1/images/pull, and of POST /v1/registries/check, where `image` is `registry`. */
struct image_pull {
	char *image;	       /* a reference; a registry */
	char *user, *password; /* for its registry, or NULL; REGISTRY_IDENTITY and an identity token */
	char *platform;	       /* NULL, or IMAGE_PLATFORM */
};
extern const struct field image_pull_fields[], registry_check_fields[];

enum { BUILD_MAX_SCRIPT = 1 << 20 }; /* bytes */

/* Body of POST /v1/images/build. */
struct image_build {
	char name[REF_TEXT];
	struct vm_spec spec; /* what the VM may have: its image is "from" */
	char *script;
};
extern const struct field image_build_fields[];

/* What a token is good for. */
enum token_scope { SCOPE_READ, SCOPE_FULL };
extern const char *const token_scope_names[];

/* Body of POST /v1/tokens. */
struct token_request {
	char name[64]; /* who it is for */
	enum token_scope scope;
	char vms[128];	     /* "K=V": bound to the VMs with that label; "": to none */
	uint32_t expires_in; /* seconds; 0: never */
};
extern const struct field token_request_fields[];
