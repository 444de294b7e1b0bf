/*
 * The files of a VM: config.json, the host key, the runtime record, the exit record.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "daemon/store/store.h"
#include "daemon/store/store_internal.h"

#define CONFIG "config.json"
#define HOSTKEY "hostkey"

enum {
	CONFIG_MAX = 1 << 20, /* bytes: 32 ssh keys of 8 KiB, and room */
	RUN_MAX = 4096,
	EXIT_MAX = 256,
};

static const struct field proc_fields[] = {
	F(struct proc_id, pid, FIELD_U32, .min = 1, .max = INT32_MAX, .flags = FIELD_REQUIRED),
	F(struct proc_id, start_ticks, FIELD_I64, .min = 0, .max = INT64_MAX, .flags = FIELD_REQUIRED),
	F(struct proc_id, boot_id, FIELD_CHARS, .flags = FIELD_REQUIRED),
	FIELD_END,
};

static const struct field run_fields[] = {
	F(struct vm_run, shim, FIELD_OBJECT, .sub = proc_fields, .flags = FIELD_REQUIRED),
	F(struct vm_run, vmm, FIELD_OBJECT, .sub = proc_fields, .flags = FIELD_NULL_EMPTY),
	F(struct vm_run, vmm_driver, FIELD_CHARS),
	F(struct vm_run, booted, FIELD_BOOL),
	F(struct vm_run, loaded, FIELD_U32, .max = LOADED_CLONE),
	F(struct vm_run, was_id, FIELD_CHARS),
	F(struct vm_run, was_name, FIELD_CHARS),
	F(struct vm_run, was_ip, FIELD_IPV4),
	F(struct vm_run, console, FIELD_I64),
	FIELD_END,
};

/* Read a file below the VM's directory. What can't be read because of what it is (a link, a FIFO, far too large) is
 * broken, and no fault of the host. */
static int read_own(int dirfd, const char *name, size_t max, struct buf *ret, struct fcm_error *err)
{
	if (file_read(dirfd, name, max, ret, err) == 0)
		return 0;
	if (err->code == FCM_TOO_LARGE || (err->code == FCM_HOST && (err->sys == 0 || err->sys == ELOOP)))
		err->code = FCM_CONFIG;
	return -1;
}

static int broken(const struct vm_id *id, const char *name, struct fcm_error *err)
{
	if (err->code != FCM_NOT_FOUND && err->code != FCM_UNAVAILABLE)
		err->code = FCM_CONFIG;
	fcm_wrap(err, "%s of %s", name, id->s);
	return err->code == FCM_CONFIG
		       ? fcm_hint(err, "its disk is kept: mend the file, or fcm destroy %s", id->s)
		       : -1;
}

static int decode_config(
	const struct vm_id *id, const struct buf *text, struct vm_view *vm, struct fcm_error *err)
{
	field_json *v = fj_parse(text->p, text->n, err);
	if (v == NULL)
		return -1;

	int64_t schema = fj_get_int(v, "schema", 0);
	int r = schema == STORE_SCHEMA ? field_from_json(vm_view_fields, v, FIELD_DISK, vm, err)
		: schema > STORE_SCHEMA
			? fcm_fail(err, FCM_CONFIG, "schema %lld is newer than this fcmd, which knows %d",
				  (long long)schema, STORE_SCHEMA)
			: fcm_fail(err, FCM_CONFIG, "no schema: fcmd did not write this");
	fj_free(v);
	if (r < 0)
		return -1;
	if (strcmp(vm->id, id->s) != 0)
		return fcm_fail(err, FCM_CONFIG, "it is that of %s", vm->id);
	if (vm->ip.s_addr == 0 || vm->uid == 0)
		return fcm_fail(err, FCM_CONFIG, "no %s", vm->uid ? "address" : "uid");
	return 0;
}

int store_vm_load(const struct vm_id *id, struct vm_view *ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct vm_view vm = {0};

	auto_close int fd = store_vm_open(id, err);
	if (fd < 0)
		return -1;
	if (read_own(fd, CONFIG, CONFIG_MAX, &text, err) < 0 || decode_config(id, &text, &vm, err) < 0) {
		field_done(vm_view_fields, &vm);
		return broken(id, CONFIG, err);
	}
	*ret = vm;
	return 0;
}

int store_vm_save(const struct vm_view *vm, struct fcm_error *err)
{
	struct vm_view copy = *vm; /* its lists stay vm's */
	struct vm_id id;

	copy.schema = STORE_SCHEMA;
	fcm_copy(id.s, sizeof id.s, vm->id);
	auto_close int fd = store_vm_open(&id, err);
	if (fd < 0)
		return -1;
	field_json *v = field_encode(vm_view_fields, &copy, true);
	auto_free char *text = fj_print(v, true);
	fj_free(v);
	return file_write_atomic(fd, CONFIG, 0600, text, strlen(text), err) < 0 ? fcm_wrap(err, "vm %s", id.s)
										: 0;
}

int store_hostkey_load(const struct vm_id *id, uint8_t ret[STORE_HOSTKEY], struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf key = {0};

	auto_close int fd = store_vm_open(id, err);
	if (fd < 0)
		return -1;
	if (read_own(fd, HOSTKEY, STORE_HOSTKEY, &key, err) < 0)
		return broken(id, HOSTKEY, err);
	if (key.n != STORE_HOSTKEY) {
		fcm_fail(err, FCM_CONFIG, "%zu bytes instead of %d", key.n, STORE_HOSTKEY);
		return broken(id, HOSTKEY, err);
	}
	memcpy(ret, key.p, STORE_HOSTKEY);
	explicit_bzero(key.p, key.n);
	return 0;
}

int store_hostkey_save(const struct vm_id *id, const uint8_t key[STORE_HOSTKEY], struct fcm_error *err)
{
	auto_close int fd = store_vm_open(id, err);

	if (fd < 0)
		return -1;
	return file_write_atomic(fd, HOSTKEY, 0600, key, STORE_HOSTKEY, err) < 0
		       ? fcm_wrap(err, "vm %s", id->s)
		       : 0;
}

struct run_name {
	char s[sizeof(struct vm_id) + sizeof ".json"];
};

static struct run_name run_name(const struct vm_id *id)
{
	struct run_name n = {""};

	fcm_format(n.s, sizeof n.s, "%s.json", id->s);
	return n;
}

int store_run_load(const struct vm_id *id, struct vm_run *ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct vm_run run = {0};

	if (read_own(store_run_dirfd(), run_name(id).s, RUN_MAX, &text, err) < 0)
		return -1;
	if (field_decode(run_fields, text.p, text.n, FIELD_DISK, &run, err) < 0) {
		err->code = FCM_CONFIG;
		return fcm_wrap(err, "runtime record of %s", id->s);
	}
	*ret = run;
	return 0;
}

int store_run_save(const struct vm_id *id, const struct vm_run *run, struct fcm_error *err)
{
	field_json *v = field_encode(run_fields, run, true);
	auto_free char *text = fj_print(v, false);

	fj_free(v);
	return file_replace(store_run_dirfd(), run_name(id).s, 0600, text, strlen(text), err);
}

int store_run_remove(const struct vm_id *id, struct fcm_error *err)
{
	if (unlinkat(store_run_dirfd(), run_name(id).s, 0) < 0 && errno != ENOENT)
		return fcm_fail_errno(err, "remove the runtime record of %s", id->s);
	return 0;
}

int store_exit_load(const struct vm_id *id, struct vm_exit *ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf b = {0};

	auto_close int fd = store_vm_open(id, err);
	if (fd < 0 || read_own(fd, "exit", EXIT_MAX, &b, err) < 0)
		return -1;
	int64_t status = kv_i64(b.p, b.n, "status", -1, 255, -1), sig = kv_i64(b.p, b.n, "signal", 0, 64, 0);
	if (kv_get(b.p, b.n, "status") == NULL)
		return fcm_fail(err, FCM_NOT_FOUND, "%s has no exit record", id->s);
	*ret = (struct vm_exit){.status = (int)status, .signal = (int)sig};
	return 0;
}
