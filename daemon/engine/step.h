/*
 * Operations as tables of steps.
 *
 * A step makes one thing (a TAP, a disk, a process), undoes it, and describes either without doing it. An
 * operation is a table of rows: a row DOes a step or UNDOes it. When a row fails, the rows before it that did
 * something are undone in reverse, and the error names the step; so create is also its own roll-back, and stop
 * and destroy are written from the same steps. Everything a step makes is named after the VM's id, so its undo
 * needs no memory of what was made: it takes a half-made thing, or none, and a daemon that was killed in the
 * middle starts again from there. An undo that fails ends the roll-back, for what is below it may still be in use
 * (a directory by a VMM that doesn't die): stop, destroy and the next daemon go on from there.
 *
 * Fault points (tests): FCM_FAULT="<table>/<step>:<what> ...", each once a process, where <what> is
 *	fail		the step does not run and fails
 *	fail-after	the step runs and fails all the same
 *	kill		the daemon is killed before the step
 *	kill-after	the daemon is killed after the step
 *	hang		the step takes two minutes longer
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"
#include "common/model.h"

struct op;

struct step {
	const char *name;
	int (*run)(struct op *op, struct fcm_error *err);
	int (*undo)(struct op *op, struct fcm_error *err); /* NULL: nothing to undo */
	/* A line for each ioctl, netlink, nft, file, VMM and Caddy operation of run (or of undo). Without
	 * effect. NULL: it has none, or is in no operation that is asked what it would do. */
	void (*describe)(const struct op *op, bool undo, struct strv *ret);
};

/* STEP_KEEP does the step as well, but when it fails the VM stays as it is, provided that its VMM lives: waiting for a
 * guest destroys nothing. */
enum step_way { STEP_DO = 1, STEP_KEEP, STEP_UNDO };

enum { STEP_ROWS = 24 };

struct op_table {
	const char *name;
	enum vm_state begin, end; /* what the steps begin and end record, where there is a VM */
	enum vm_desired desired;  /* what begin records that the user wants */
	struct {
		const struct step *step;
		enum step_way way;
	} rows[STEP_ROWS]; /* ended by a row without a step */
};

/* Run the rows of op->table. On failure err->step names the row, and what had been done is undone, unless the
 * row is STEP_KEEP and the VMM lives (*ret_kept is true then, and false in every other case). */
int steps_run(struct op *op, bool *ret_kept, struct fcm_error *err) must_check;

/* The same of a table without such rows, as an op's `run`. */
int steps_run_all(struct op *op, struct fcm_error *err) must_check;

/* Describe all rows, each line led by the step's name. */
void steps_describe(const struct op *op, struct strv *ret);

/* All tables of all operations, for --list-steps and the tests that fail each of them once; ended by NULL. */
extern const struct op_table *const op_tables[];

/* Print "table/step do|undo[ keep]" for every row of every table. */
void steps_list(struct strv *ret);

/* The steps. The head of each file says what they make. */
extern const struct step step_image;					      /* defaults.c */
extern const struct step step_admit, step_reserve, step_directory, step_disk; /* steps_disk.c */
extern const struct step step_volumes, step_give;			      /* steps_volumes.c */
extern const struct step step_begin, step_end;				      /* steps_state.c */
extern const struct step step_filter, step_tap, step_cgroup;		      /* steps_host.c */
extern const struct step step_vmm, step_attach, step_boot, step_quiet;	      /* steps_vmm.c */
extern const struct step step_guest, step_ready;  /* steps_guest.c, steps_ready.c */
extern const struct step step_freeze, step_pause; /* steps_pause.c */
extern const struct step step_save;		  /* saved.c */
extern const struct step step_shot, step_copy, step_seal, step_mark, step_unpack; /* steps_snapshot.c */
extern const struct step step_receive, step_judge, step_enter;			  /* snapimport.c */
extern const struct step step_place, step_fetch, step_install;			  /* kernelimport.c */
extern const struct step step_making, step_merge, step_keep;			  /* making.c */
extern const struct step step_pull, step_import, step_pack; /* pull.c, import.c, build.c */
extern const struct step step_want, step_site;		    /* site.c */
extern const struct step step_change;			    /* steps_update.c */
extern const struct step step_publish, step_ports;	    /* steps_publish.c */

/* The tables (tables.c). */
extern const struct op_table table_create, table_start, table_stop, table_destroy, table_adopt, table_ended;
extern const struct op_table table_expose, table_unexpose, table_publish, table_update, table_rename;
extern const struct op_table table_pause, table_resume, table_adopt_paused;
extern const struct op_table table_suspend, table_snapshot, table_snapshot_stop, table_clone, table_revert;
extern const struct op_table table_pull, table_import_image, table_build;
extern const struct op_table table_import_kernel, table_import_snapshot;
