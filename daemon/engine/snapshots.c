#include "daemon/engine/snapshots.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/log.h"
#include "daemon/engine/claimed.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/ops.h"
#include "daemon/engine/saved.h"
#include "daemon/engine/volumes.h"

/* Guards `held`, and that of two snapshots with one name only one becomes visible. Never held across a copy. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct strv held; /* ids, one for each hold */

static void hold_id(const char *id)
{
	pthread_mutex_lock(&lock);
	strv_add(&held, id);
	pthread_mutex_unlock(&lock);
}

static void drop_id(const char *id)
{
	pthread_mutex_lock(&lock);
	strv_remove(&held, id);
	pthread_mutex_unlock(&lock);
}

static struct vm_id id_of(const struct snapshot *s)
{
	struct vm_id id = {""};

	fcm_copy(id.s, sizeof id.s, s->id);
	return id;
}

void snapshot_drop(struct snapshot_hold *h)
{
	struct vm_id id = id_of(&h->snapshot);
	struct fcm_error err;

	if (h->fd < 0)
		return;
	drop_id(id.s);
	if (h->temporary && snapshots_remove(&id, NULL, &err) < 0)
		log_error(LOG_LEVEL_WARN, NULL, &err);
	snapshot_done(&h->snapshot);
	fcm_closep(&h->fd);
}

void snapshot_held(struct snapshot_hold *h)
{
	hold_id(h->snapshot.id);
}

/* ---- find ---- */

static int read_one(const char *text, struct snapshot *ret, struct fcm_error *err)
{
	struct vm_id id;

	fcm_copy(id.s, sizeof id.s, text);
	auto_close int fd = snapshots_open(&id, err);
	if (fd < 0 || snapshot_read(fd, ret, err) < 0)
		return fcm_wrap(err, "snapshot %s", id.s);
	fcm_copy(ret->id, sizeof ret->id, id.s); /* the directory decides */
	return 0;
}

static int by_created(const void *a, const void *b)
{
	const struct snapshot *x = a, *y = b;

	return x->created != y->created ? (x->created < y->created ? -1 : 1) : strcmp(x->id, y->id);
}

int engine_snapshots(const char *only, struct snapshot **ret, size_t *ret_n, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv ids = {0};
	struct fcm_error why;

	*ret_n = 0;
	if (snapshots_list(&ids, err) < 0)
		return -1;
	*ret = xalloc((ids.n + 1) * sizeof **ret);
	for (size_t i = 0; i < ids.n; i++) {
		struct snapshot *one = &(*ret)[*ret_n];
		if (read_one(ids.v[i], one, &why) < 0) {
			if (why.code != FCM_NOT_FOUND) /* removed meanwhile */
				log_error(LOG_LEVEL_WARN, NULL, &why);
		} else if (labels_have(&one->vm.spec.labels, only)) {
			++*ret_n;
		} else {
			snapshot_done(one);
		}
	}
	if (*ret_n)
		qsort(*ret, *ret_n, sizeof **ret, by_created);
	return 0;
}

static void free_all(struct snapshot *all, size_t n)
{
	for (size_t i = 0; i < n; i++)
		snapshot_done(&all[i]);
	free(all);
}

/* The id of the one with that name, or with that id. */
static int find(const char *text, const char *only, struct vm_id *ret, struct fcm_error *err)
{
	struct snapshot *all = NULL;
	size_t n = 0, i = 0;

	if (engine_snapshots(only, &all, &n, err) < 0)
		return -1;
	while (i < n && strcmp(all[i].name, text) != 0)
		i++;
	for (size_t k = 0; i == n && k < n; k++)
		if (strcmp(all[k].id, text) == 0)
			i = k;
	if (i < n)
		*ret = id_of(&all[i]);
	free_all(all, n);
	if (i < n)
		return 0;
	fcm_fail(err, FCM_NOT_FOUND, "there is no snapshot '%.64s'", text);
	return fcm_hint(err, "fcm snapshot ls shows what there is");
}

int engine_snapshot_hold(const char *text, const char *only, struct snapshot_hold *ret, struct fcm_error *err)
{
	struct snapshot_hold h = {.fd = -1};
	struct vm_id id;

	if (find(text, only, &id, err) < 0)
		return -1;
	hold_id(id.s);
	if ((h.fd = snapshots_open(&id, err)) >= 0 && snapshot_read(h.fd, &h.snapshot, err) == 0) {
		fcm_copy(h.snapshot.id, sizeof h.snapshot.id, id.s);
		*ret = h;
		return 0;
	}
	drop_id(id.s);
	fcm_closep(&h.fd);
	return -1;
}

uint64_t snapshot_on_disk(const struct vm_id *id)
{
	_cleanup_(strv_done) struct strv names = {0};
	struct fcm_error ignored;
	auto_close int fd = snapshots_open(id, &ignored);
	uint64_t bytes = 0;
	struct stat st;

	if (fd < 0 || dir_names(fd, &names, &ignored) < 0)
		return 0;
	for (size_t i = 0; i < names.n; i++)
		if (fstatat(fd, names.v[i], &st, AT_SYMLINK_NOFOLLOW) == 0)
			bytes += (uint64_t)st.st_blocks * 512;
	return bytes;
}

int engine_snapshot_remove(
	const char *text, const char *only, struct vm_id *ret_id, uint64_t *ret_freed, struct fcm_error *err)
{
	if (find(text, only, ret_id, err) < 0)
		return -1;
	pthread_mutex_lock(&lock);
	bool busy = strv_has(&held, ret_id->s);
	int rc = busy ? fcm_fail(err, FCM_BUSY,
				"the snapshot '%.64s' is in use: a VM is just being made of it, or it is "
				"being exported",
				text)
		      : snapshots_remove(ret_id, ret_freed, err);
	pthread_mutex_unlock(&lock);
	return rc;
}

/* ---- take one ---- */

static bool name_taken(const char *name)
{
	struct fcm_error ignored;
	struct vm_id id;

	return find(name, NULL, &id, &ignored) == 0;
}

int snapshot_name_free(const char *name, struct fcm_error *err)
{
	if (!name_taken(name))
		return 0;
	fcm_fail_field(err, FCM_NAME_TAKEN, "name", "there is a snapshot '%s' already", name);
	return fcm_hint(err, "choose another name, or fcm snapshot rm %s", name);
}

/* "<vm>-1" and so on. */
static void choose_name(const struct vm *vm, char *ret, size_t size)
{
	for (unsigned n = 1; n < 100000; n++) {
		(void)fcm_format(ret, size, "%.56s-%u", vm->view.name, n);
		if (!name_taken(ret))
			return;
	}
}

static int check_name(struct op *op, struct fcm_error *err)
{
	struct snapshot *s = &op->hold.snapshot;

	if (op->hold.temporary)
		return 0;
	if (*s->name == '\0') {
		choose_name(op->vm, s->name, sizeof s->name);
		return 0;
	}
	return snapshot_name_free(s->name, err);
}

/* What the VM remembers of a volume that others may write meanwhile isn't worth keeping. */
static int check_volumes(const struct vm *vm, struct fcm_error *err)
{
	struct volume_ref refs[VM_MAX_VOLUMES];
	size_t n = volumes_parse(&vm->view.spec.volumes, refs);

	for (size_t i = 0; i < n; i++)
		if (refs[i].name.s[0] && !refs[i].read_only && !volumes_is_own(vm, &refs[i])) {
			fcm_fail(err, FCM_WRONG_STATE,
				"VM '%s' writes the volume '%s', which has a life of its own: its memory "
				"can't be kept",
				vm->view.name, refs[i].name.s);
			return fcm_hint(err, "fcm snapshot create --disk-only keeps the VM's own disk");
		}
	return 0;
}

/* Is there something to take, and what? */
static int check_state(struct op *op, struct fcm_error *err)
{
	const struct vm *vm = op->vm;
	struct snapshot *s = &op->hold.snapshot;
	enum vm_state state = vm->view.state;
	bool memory = state != VM_STOPPED && !op->disk_only;

	if ((state != VM_RUNNING && state != VM_PAUSED && state != VM_STOPPED && state != VM_SUSPENDED) ||
		(vm_state_up(state) && !op_vmm_lives(op)))
		return fcm_fail(err, FCM_WRONG_STATE, "VM '%s' is %s", vm->view.name, vm_state_names[state]);
	s->memory = memory;
	return memory ? check_volumes(vm, err) : 0;
}

/* What the snapshot says of its VM; its lists stay the VM's until it is sealed. */
static void describe(struct op *op)
{
	struct snapshot *s = &op->hold.snapshot;

	s->created = clock_wall();
	s->vm = op->vm->view;
	fcm_copy(s->parent, sizeof s->parent, op->vm->view.snapshot);
	if (s->memory && op->vm->view.state != VM_SUSPENDED)
		s->machine = saved_of(op->vm);
}

/* What was written down, with the sums of its files, is the result; until then its lists are those of the VM. */
static int read_again(struct snapshot_hold *h, struct fcm_error *err)
{
	struct vm_id id = id_of(&h->snapshot);

	if (snapshot_read(h->fd, &h->snapshot, err) < 0)
		return -1;
	fcm_copy(h->snapshot.id, sizeof h->snapshot.id, id.s);
	return 0;
}

static int take(struct op *op, const struct op_table *table, struct fcm_error *err)
{
	struct fcm_error ignored;

	if (check_name(op, err) < 0 || check_state(op, err) < 0 || engine_has_room(err) < 0)
		return -1;
	describe(op);
	op->changed = true;
	int rc = claimed_run(op, table, err);
	op->hold.snapshot.vm = (struct vm_view){0};
	if (rc == 0)
		return read_again(&op->hold, err);
	(void)!step_shot.undo(op, &ignored); /* also where the VMM didn't let the roll-back get that far */
	return -1;
}

int op_snapshot_run(struct op *op, struct fcm_error *err)
{
	const struct op_table *table = op->table;

	if (claimed_begin(op, err) < 0)
		return -1;
	int rc = claimed_reach(op, err) < 0 ? -1 : take(op, table, err);
	if (rc == 0 && table == &table_snapshot_stop)
		rc = claimed_run(op, &table_stop, err); /* at once: nothing it does now is kept */
	registry_drop(op->vm);
	return rc;
}

int snapshot_could(struct op *op, struct fcm_error *err)
{
	if (check_name(op, err) == 0 && check_volumes(op->vm, err) == 0)
		return 0;
	fcm_copy(err->field, sizeof err->field, "save_snapshot");
	return -1;
}

int snapshot_take(struct op *op, struct fcm_error *err)
{
	return take(op, &table_snapshot, err);
}

struct op *engine_snapshot(struct vm *vm, const struct snapshot_request *rq, bool temporary)
{
	struct op *op = op_new(rq->stop ? &table_snapshot_stop : &table_snapshot, vm, op_snapshot_run);
	struct snapshot *s = &op->hold.snapshot;

	op->what = "snapshot";
	op->disk_only = rq->disk_only;
	op->hold.temporary = temporary;
	fcm_copy(s->name, sizeof s->name, rq->name);
	fcm_copy(s->note, sizeof s->note, rq->note);
	return op;
}

int snapshot_enter(struct op *op, struct fcm_error *err)
{
	struct snapshot *s = &op->hold.snapshot;
	struct vm_id id = id_of(s);

	pthread_mutex_lock(&lock);
	int rc = snapshot_name_free(s->name, err) < 0 ? -1 : snapshots_publish(&id, err);
	pthread_mutex_unlock(&lock);
	return rc;
}

/* ---- make VMs of it ---- */

int snapshot_loads(const struct op *op, struct fcm_error *err)
{
	const struct snapshot_hold *h = &op->hold;
	struct snapshot_machine here = saved_here();

	if (h->fd < 0)
		return 0;
	if (snapshot_check(h->fd, &h->snapshot, false, err) < 0)
		return -1;
	if (op->disk_only)
		return 0;
	int rc = snapshot_fits(&h->snapshot.machine, &here, err);
	if (rc == 0 && op->table == &table_clone && !h->snapshot.frozen)
		rc = fcm_fail(err, FCM_WRONG_STATE,
			"its guest's agent didn't answer when it was taken: its programs would run on as "
			"another VM");
	return rc < 0 ? fcm_hint(err, "fcm %s --disk-only boots what is on its disk",
				op->table == &table_clone ? "clone" : "restore")
		      : 0;
}

/* Did it go with the source? Of one that was imported none has a name. */
static bool went_with(const struct snapshot *s, const struct volume_ref *ref)
{
	size_t n = strlen(s->vm.id);

	return ref->name.s[0] == '\0' || (strncmp(ref->name.s, s->vm.id, n) == 0 && ref->name.s[n] == '.');
}

/* Names of volumes that went with the source are chosen anew. */
static void own_volumes(const struct snapshot *s, struct strv *ret)
{
	struct volume_ref refs[VM_MAX_VOLUMES];
	size_t n = volumes_parse(&s->vm.spec.volumes, refs);

	for (size_t i = 0; i < n; i++) {
		if (went_with(s, &refs[i]))
			refs[i].name.s[0] = '\0';
		auto_free char *text = volume_ref_text(&refs[i]);
		strv_add(ret, text);
	}
}

/* What the VM was made with; but its ports and its site are its own, and so is how long it stays. */
static struct vm *vm_of(const struct snapshot *s, const struct clone_request *rq, const char *name)
{
	struct vm *vm = vm_new();
	struct vm_view *v = &vm->view;

	vm_spec_copy(&v->spec, &s->vm.spec);
	strv_done(&v->spec.volumes);
	own_volumes(s, &v->spec.volumes);
	strv_done(&v->spec.publish);
	strv_copy(&v->spec.publish, &rq->publish);
	v->spec.auto_remove = rq->auto_remove;
	if (rq->auto_remove)
		v->spec.restart = RESTART_NO;
	v->spec.hold = false;
	if (ready_given(&rq->ready)) {
		field_done(ready_fields, &v->spec.ready);
		ready_copy(&v->spec.ready, &rq->ready);
	}
	fcm_copy(v->name, sizeof v->name, name);
	v->image_id = s->vm.image_id;
	v->schema = 1;
	v->state = VM_CREATING;
	v->desired = WANT_RUNNING;
	v->created = clock_wall();
	v->expose.port = rq->expose_port;
	return vm;
}

/* A second hold of the same. */
static void hold_again(const struct snapshot_hold *h, struct snapshot_hold *ret)
{
	struct fcm_error ignored;

	*ret = (struct snapshot_hold){.fd = fcntl(h->fd, F_DUPFD_CLOEXEC, 3)};
	if (ret->fd < 0 || snapshot_read(ret->fd, &ret->snapshot, &ignored) < 0)
		fcm_closep(&ret->fd);
	fcm_copy(ret->snapshot.id, sizeof ret->snapshot.id, h->snapshot.id);
	ret->unseen = h->temporary;
	if (ret->fd >= 0)
		hold_id(h->snapshot.id);
}

struct op *engine_clone(const struct snapshot_hold *h, const struct clone_request *rq, const char *name)
{
	struct vm *vm = vm_of(&h->snapshot, rq, name);
	struct op *op = op_new(&table_clone, vm, op_create_run);

	vm_unref(vm);
	op->disk_only = rq->disk_only || !h->snapshot.memory;
	hold_again(h, &op->hold);
	return op;
}

/* ---- to and from other hosts ---- */

int snapshot_moves(const struct snapshot *s, struct fcm_error *err)
{
	struct volume_ref refs[VM_MAX_VOLUMES];
	size_t n = volumes_parse(&s->vm.spec.volumes, refs);

	for (size_t i = 0; i < n; i++)
		if (!went_with(s, &refs[i]))
			return fcm_fail(err, FCM_WRONG_STATE,
				"its VM '%s' had the volume '%s', which has a life of its own and isn't in "
				"it",
				s->vm.name, refs[i].name.s);
	return 0;
}

void snapshot_forget_vm(struct snapshot *s)
{
	struct strv nameless = {0};

	own_volumes(s, &nameless);
	strv_done(&s->vm.spec.volumes);
	s->vm.spec.volumes = nameless;
	(void)fcm_copy(s->vm.id, sizeof s->vm.id, s->id);
	s->vm.snapshot[0] = s->parent[0] = '\0';
}

/* ---- go back to it ---- */

static int check_own(const struct op *op, struct fcm_error *err)
{
	const struct snapshot *s = &op->hold.snapshot;

	if (strcmp(s->vm.id, op->vm->id.s) == 0)
		return 0;
	if (strcmp(s->vm.id, s->id) == 0)
		fcm_fail_field(err, FCM_WRONG_STATE, "snapshot",
			"the snapshot '%s' was imported: it is of no VM here", s->name);
	else
		fcm_fail_field(err, FCM_WRONG_STATE, "snapshot", "the snapshot '%s' is of another VM, %s",
			s->name, s->vm.name);
	return fcm_hint(err, "fcm clone %s makes a VM of it", s->name);
}

int op_restore_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	int rc = -1;

	if (check_own(op, err) < 0 || claimed_begin(op, err) < 0)
		return -1;
	if (snapshot_loads(op, err) == 0 && engine_has_room(err) == 0) {
		op->changed = true;
		vm->crashes = 0;
		rc = claimed_run(op, &table_stop, err) < 0 || claimed_run(op, &table_revert, err) < 0
			     ? -1
			     : claimed_start(op, err);
	}
	registry_drop(vm);
	return rc;
}

struct op *engine_restore(struct vm *vm, struct snapshot_hold *h, bool disk_only)
{
	struct op *op = op_new(&table_revert, vm, op_restore_run);

	op->what = "restore";
	op->disk_only = disk_only || !h->snapshot.memory;
	op->hold = *h;
	*h = (struct snapshot_hold){.fd = -1};
	return op;
}
