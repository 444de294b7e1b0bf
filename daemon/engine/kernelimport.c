#include "daemon/engine/kernelimport.h"

#include "daemon/engine/engine.h"
#include "daemon/engine/import.h"
#include "daemon/engine/making.h"

/* ---- place: a directory, which nobody sees yet ---- */

static int begin(struct op *op, struct fcm_error *err)
{
	return engine_has_room(err) < 0 ? -1 : kernel_make_begin(making_uid(), &op->kernel, err);
}

static int drop(struct op *op, struct fcm_error *err)
{
	(void)err;
	kernel_make_done(&op->kernel);
	return 0;
}

const struct step step_place = {.name = "place", .run = begin, .undo = drop};

/* ---- fetch: what comes ---- */

static int fetch(struct op *op, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv files = {0};

	kernel_names(&files);
	return import_unpack(op, op->kernel.job_fd, "kernel", &files, KERNEL_BYTES, err);
}

const struct step step_fetch = {.name = "fetch", .run = fetch};

/* ---- install: it is a kernel, and VMs that start have it from now on ---- */

static int install(struct op *op, struct fcm_error *err)
{
	struct asset_name name;

	if (asset_name_parse(op->names.v[0], "name", &name, err) < 0 ||
		kernel_make_commit(&op->kernel, &name, &op->image, err) < 0)
		return -1;
	kernel_make_done(&op->kernel);
	return 0;
}

const struct step step_install = {.name = "install", .run = install};

/* ---- the operation ---- */

int engine_kernel_import(const char *name, struct op **ret, int *ret_fd, struct fcm_error *err)
{
	struct asset_name checked;
	struct op *op = op_new(&table_import_kernel, NULL, import_run);

	if (asset_name_parse(name, "name", &checked, err) < 0 ||
		import_open(op, "a kernel", ret_fd, err) < 0) {
		op_unref(op);
		return -1;
	}
	strv_add(&op->names, checked.s);
	*ret = op;
	return 0;
}
