/*
 * Rename and update: what of a VM can be changed.
 *
 * A name, a policy and labels change at once, CPUs and memory with the next machine: until then `next` has them, so that all
 * that counts what runs goes on counting the truth. A site whose name was made of the VM's follows it, one that was chosen
 * stays. The guest keeps its host name until its next start, for programs there don't expect another one.
 */
#include "daemon/engine/update.h"

#include <string.h>

#include "common/core/log.h"
#include "daemon/engine/claimed.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/ops.h"
#include "daemon/engine/saved.h"
#include "daemon/net/net.h"

/* ---- what is wanted: pure ---- */

static void remove_label(struct strv *labels, const char *key)
{
	size_t n = strlen(key), kept = 0;

	for (size_t i = 0; i < labels->n; i++) {
		if (strncmp(labels->v[i], key, n) == 0 && labels->v[i][n] == '=')
			free(labels->v[i]);
		else
			labels->v[kept++] = labels->v[i];
	}
	labels->n = kept;
}

/* The field's row checks what they are together. */
static int change_labels(const struct update_request *u, struct strv *labels, struct fcm_error *err)
{
	struct update_request all = {.labels = *labels};
	int rc = 0;

	for (size_t i = 0; i < u->remove_labels.n; i++)
		remove_label(&all.labels, u->remove_labels.v[i]);
	for (size_t i = 0; rc == 0 && i < u->labels.n; i++)
		rc = field_set_text(update_request_fields, &all, "labels", u->labels.v[i], err);
	*labels = all.labels;
	return rc;
}

static uint32_t first_of(uint32_t a, uint32_t b, uint32_t c)
{
	return a ? a : b ? b : c;
}

static void change_size(const struct update_request *u, bool down, struct vm_traits *t)
{
	struct vm_next size = {first_of(u->vcpus, t->next.vcpus, t->vcpus),
		first_of(u->mem_mib, t->next.mem_mib, t->mem_mib)};

	if (down) {
		t->vcpus = size.vcpus;
		t->mem_mib = size.mem_mib;
	}
	if (size.vcpus == t->vcpus && size.mem_mib == t->mem_mib)
		size = (struct vm_next){0};
	t->next = size;
}

int update_apply(const struct update_request *u, bool down, struct vm_traits *t, struct fcm_error *err)
{
	if (u->name[0])
		fcm_copy(t->name, sizeof t->name, u->name);
	if (u->vcpus || u->mem_mib)
		change_size(u, down, t);
	for (int i = 0; vm_restart_names[i]; i++)
		if (strcmp(u->restart, vm_restart_names[i]) == 0)
			t->restart = (enum vm_restart)i;
	return change_labels(u, &t->labels, err);
}

void update_take_next(struct vm_view *view)
{
	if (view->next.vcpus == 0)
		return;
	view->spec.vcpus = view->next.vcpus;
	view->spec.mem_mib = view->next.mem_mib;
	view->next = (struct vm_next){0};
}

void update_go_back(struct vm_view *view, const struct vm_spec *size)
{
	update_take_next(view);
	if (view->spec.vcpus != size->vcpus || view->spec.mem_mib != size->mem_mib)
		view->next = (struct vm_next){view->spec.vcpus, view->spec.mem_mib};
	view->spec.vcpus = size->vcpus;
	view->spec.mem_mib = size->mem_mib;
}

/* ---- change: the VM and config.json ---- */

static void get_traits(const struct vm *vm, struct vm_traits *ret)
{
	const struct vm_view *v = &vm->view;

	*ret = (struct vm_traits){.vcpus = v->spec.vcpus,
		.mem_mib = v->spec.mem_mib,
		.next = v->next,
		.restart = v->spec.restart};
	fcm_copy(ret->name, sizeof ret->name, v->name);
	strv_copy(&ret->labels, &v->spec.labels);
}

static int put_traits(struct vm *vm, const struct vm_traits *t, struct fcm_error *err)
{
	if (strcmp(t->name, vm->view.name) != 0 && registry_rename(vm, t->name, err) < 0)
		return -1;
	VM_SET(vm, view->spec.vcpus = t->vcpus; view->spec.mem_mib = t->mem_mib; view->next = t->next;
		view->spec.restart = t->restart; strv_done(&view->spec.labels);
		strv_copy(&view->spec.labels, &t->labels));
	return store_vm_save(&vm->view, err);
}

static int change(struct op *op, struct fcm_error *err)
{
	return put_traits(op->vm, &op->wanted, err);
}

static int unchange(struct op *op, struct fcm_error *err)
{
	return put_traits(op->vm, &op->was, err);
}

const struct step step_change = {.name = "change", .run = change, .undo = unchange};

/* ---- the operation ---- */

static bool labels_same(const struct strv *a, const struct strv *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (strcmp(a->v[i], b->v[i]) != 0)
			return false;
	return true;
}

static bool traits_same(const struct vm_traits *a, const struct vm_traits *b)
{
	return strcmp(a->name, b->name) == 0 && a->vcpus == b->vcpus && a->mem_mib == b->mem_mib &&
	       a->next.vcpus == b->next.vcpus && a->next.mem_mib == b->next.mem_mib &&
	       a->restart == b->restart && labels_same(&a->labels, &b->labels);
}

/* Has its site the name that the VM's gave it? Then the new one, in op->expose, follows. */
static bool site_follows(struct op *op)
{
	char old[sizeof op->expose.domain];

	if (op->vm->view.expose.port == 0 || strcmp(op->was.name, op->wanted.name) == 0)
		return false;
	op->expose = op->before = op->vm->view.expose;
	engine_domain(op->was.name, old, sizeof old);
	engine_domain(op->wanted.name, op->expose.domain, sizeof op->expose.domain);
	return strcmp(op->before.domain, old) == 0;
}

/* What was told its name: who asks for a port that it has, and its guest. Neither keeps the change from being made. */
static void tell_others(struct op *op)
{
	struct vm *vm = op->vm;
	struct net_vm part = vm_net_part(vm);
	struct publish_list ports;
	struct fcm_error err;

	if (op_vmm_lives(op) && publish_of(vm, &ports, &err) == 0 &&
		net_publish(&part, vm->view.name, &ports, &err) < 0)
		log_error(LOG_LEVEL_WARN, vm->id.s, &err);
	guest_renew_facts(vm);
}

static int choose(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	enum vm_state s = vm->view.state;
	bool down = vm->shim_pidfd < 0 && (s == VM_STOPPED || s == VM_FAILED) && !saved_there(vm);

	get_traits(vm, &op->was);
	get_traits(vm, &op->wanted);
	if (update_apply(&op->update, down, &op->wanted, err) < 0)
		return -1;
	if (vm->view.spec.auto_remove && op->wanted.restart != RESTART_NO)
		return fcm_fail_field(err, FCM_INVALID, "restart",
			"restart: a VM that goes when it has ended can't start again");
	op->changed = !traits_same(&op->was, &op->wanted);
	return 0;
}

int op_update_run(struct op *op, struct fcm_error *err)
{
	bool kept;

	if (claimed_begin(op, err) < 0)
		return -1;
	int rc = choose(op, err);
	if (rc == 0 && op->changed) {
		if (site_follows(op))
			op->table = &table_rename;
		rc = steps_run(op, &kept, err);
		if (rc == 0)
			tell_others(op);
	}
	registry_drop(op->vm);
	return rc;
}
