/*
 * An operation in progress: a table of steps, mostly on one VM, on a thread of its own, so that a client that goes
 * away cancels nothing. The thread that asked for it waits on a descriptor and reads its progress. One that brings or makes
 * an image, or brings a snapshot (pull.c, import.c, kernelimport.c, snapimport.c, build.c), has no VM, and ends when nobody waits for it.
 */
#pragma once

#include <netinet/in.h>
#include <stdatomic.h>

#include "common/core/error.h"
#include "common/core/publish.h"
#include "common/core/util.h"
#include "daemon/engine/step.h"
#include "daemon/engine/update.h"
#include "daemon/engine/vm.h"
#include "daemon/image/kernel.h"
#include "daemon/image/make.h"
#include "daemon/store/snapshot.h"

/* What destroy removed: the receipt that the client prints. */
struct op_receipt {
	bool tap, site;
	unsigned nft_elements;
	uint64_t bytes;
	char left[200]; /* what could not be taken away and doesn't keep the VM from going, or "" */
};

/* A snapshot that somebody uses: nobody removes it meanwhile. With fd -1 there is none. */
struct snapshot_hold {
	int fd; /* its directory */
	struct snapshot snapshot;
	bool temporary; /* it was never visible, and goes with its hold */
	bool unseen;	/* it is such a one, of another hold */
};
void snapshot_drop(struct snapshot_hold *h);

/* An image, a kernel or a snapshot that a request brings (import.h, kernelimport.h, snapimport.h). */
struct image_import {
	const char *of; /* what it is called in the log while it has no name */
	char *config;	/* or NULL */
	int in_fd;	/* where its bytes come from, or -1 */
};

struct op {
	const struct op_table *table; /* or NULL */
	struct vm *vm;		      /* held, or NULL */

	/* arguments */
	int (*run)(struct op *op,
		struct fcm_error *err); /* the operation; begins and ends with the VM's busy slot free */
	const char *what;		/* for the log: "create", "add-keys" */
	int64_t grace_ms;		/* how long the guest may take to shut down */
	bool urgent;		 /* it kills the VM: what waits for the guest shall not keep it waiting */
	enum vm_state end_state; /* of table_ended: the state that the VM is left in */
	bool want_running;	 /* a stop that is half of a restart */
	bool park;		 /* the host goes down: keep `desired`, and say why in `reason` */
	struct vm_expose expose,
		before;		   /* expose and unexpose: what is wanted, and what was; sync: the status */
	struct snapshot_hold hold; /* the one that is taken, or of which the VM is made */
	bool save;		   /* create: the one that is taken once it is up */
	bool disk_only;		   /* without its memory */
	struct strv keys;	   /* add_keys */
	struct strv publish;	   /* publish: the ports, */
	bool unpublish;		   /* to be taken away; */
	struct publish_list ports_before; /* and what was published before */
	struct update_request update;	  /* update: what is asked, */
	struct vm_traits was, wanted;	  /* what it was, and is to be */
	int64_t boots;			  /* reconnect: the run whose guest is to be set up, */
	int64_t delay_ms;		  /* and how long to wait before */
	bool was_paused;		  /* before `pause` */
	int64_t paused_at;		  /* when `pause` did it, */
	int64_t pause_ms;		  /* and how long it took until the VM ran on */
	int64_t patience_ms;		  /* how long the guest's agent may take to answer; 0: boot_seconds */
	struct ready_spec
		ready;		/* start: what is waited for, where it says anything; else what the VM says */
	struct image_pull pull; /* pull, and check */
	struct image_import import; /* import */
	struct image_build build;   /* build */
	struct strv
		names; /* pull, import, build: the image's, whole ones; of a kernel or a snapshot its own, or none */
	struct kernel_making kernel; /* import */
	struct image_making making;  /* pull, import, build: the image, */
	struct vm *maker;	     /* and the VM in which that of a build was made, borrowed */

	/* outcome, to be read after op_wait() said that it is over */
	int rc;
	struct fcm_error err;
	bool changed, forced;
	bool resumed; /* a start: the VM went on where it was */
	int64_t took_ms;
	struct op_receipt receipt;
	struct image_info image; /* pull, import, build; or the kernel */

	/* private to op.c */
	unsigned refs;
	bool over;
	atomic_bool given_up;
	bool alone;	     /* nobody waits for it: a failure is logged when it ends */
	struct op *later;    /* it has no thread yet, and so has the next one (supervise.c) */
	int wake;	     /* eventfd: something new */
	struct buf progress; /* NDJSON lines not yet taken */
};

/* A new operation on `vm` (a reference is taken), or without both. `run` is one of the functions of ops.h. */
struct op *op_new(
	const struct op_table *table, struct vm *vm, int (*run)(struct op *op, struct fcm_error *err));
struct op *op_ref(struct op *op);
void op_unref(struct op *op); /* NULL-safe */

/* The same by who waited for the outcome: what makes no sense without anybody ends then. */
void op_give_up(struct op *op);

/* Is it to end because nobody waits, or the daemon stops? */
bool op_given_up(const struct op *op);

/* Start it on a thread of its own. */
int op_start(struct op *op, struct fcm_error *err) must_check;

/* Run it on this thread, to its end. */
void op_run(struct op *op);

/* Descriptor that is readable when there is progress or the end; -1 only for an op that `alone` was set of. */
int op_wake_fd(const struct op *op);

/* Take the progress lines so far (appended to `lines`). True when the operation is over. */
bool op_poll(struct op *op, struct buf *lines);

/* Report a step; called by the step runner. */
void op_progress(struct op *op, const char *step, const char *status, int64_t ms);

/* Report anything, as a line of progress; takes over `line`. It is dropped when nobody reads. */
void op_tell(struct op *op, field_json *line);

/* The same of what must not be lost: waits until there is room for it, unless the operation is given up. */
void op_tell_all(struct op *op, field_json *line);

/* Lines of another operation's progress, as op_poll() gave them. */
void op_tell_lines(struct op *op, const struct buf *lines);

/* What it is about, for the log. */
const char *op_subject(const struct op *op);

/* Does the VMM of op->vm live? */
bool op_vmm_lives(const struct op *op);

/* Wait until no operation runs any more, or the deadline. */
bool ops_drain(int64_t deadline);
