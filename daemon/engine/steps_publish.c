/*
 * Published ports: `ports` is the wish, in config.json; `publish` is what the network does, while the VM runs. A VM that is
 * stopped lets its ports go and keeps the wish; a start whose port somebody has taken since is refused before it begins.
 *
 * `publish` comes in front of `begin`, for a port that is taken is the usual reason why a start doesn't go, and leaves nothing
 * that a killed daemon would not have left anyway: sockets end with it, rules are made anew by the next one.
 */
#include <string.h>

#include "daemon/engine/claimed.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/ops.h"
#include "daemon/net/net.h"

int publish_of(const struct vm *vm, struct publish_list *ret, struct fcm_error *err)
{
	ret->n = 0;
	if (publish_add_all(ret, &vm->view.spec.publish, "publish", err) < 0)
		return -1;
	for (size_t i = 0; i < ret->n; i++)
		if (!ret->v[i].host_given) {
			ret->v[i].host = engine()->config->publish_address;
			ret->v[i].host_given = true;
		}
	return 0;
}

static void set_texts(struct vm *vm, const struct publish_list *ports)
{
	struct strv texts = {0};

	for (size_t i = 0; i < ports->n; i++)
		strv_add(&texts, publish_text(&ports->v[i]).s);
	VM_SET(vm, strv_done(&view->spec.publish); view->spec.publish = texts);
}

/* ---- publish: what the network does ---- */

/* Of a VM that doesn't run only the wish changes. */
static bool has_effect(const struct op *op)
{
	return op->table != &table_publish || op_vmm_lives(op);
}

static int publish_up(struct op *op, struct fcm_error *err)
{
	struct net_vm part = vm_net_part(op->vm);
	struct publish_list ports;

	if (publish_of(op->vm, &ports, err) < 0)
		return -1;
	if (has_effect(op) && net_publish(&part, op->vm->view.name, &ports, err) < 0)
		return -1;
	set_texts(op->vm, &ports); /* with the ports that were chosen */
	return 0;
}

static int publish_down(struct op *op, struct fcm_error *err)
{
	struct net_vm part = vm_net_part(op->vm);
	struct publish_list ports = {0};

	if (op->table == &table_publish)
		ports = op->ports_before;
	return has_effect(op) ? net_publish(&part, op->vm->view.name, &ports, err) : 0;
}

static void publish_describe(const struct op *op, bool undo, struct strv *ret)
{
	struct net_vm part = vm_net_part(op->vm);
	struct publish_list ports;
	struct fcm_error ignored;

	if (publish_of(op->vm, &ports, &ignored) < 0 || ports.n == 0)
		return;
	if (undo)
		strv_addf(ret, "let %zu published ports go, and their conntrack entries", ports.n);
	else
		net_describe_publish(&part, &ports, ret);
}

const struct step step_publish = {
	.name = "publish", .run = publish_up, .undo = publish_down, .describe = publish_describe};

/* ---- ports: what config.json says ---- */

static int save_ports(struct op *op, struct fcm_error *err)
{
	return store_vm_save(&op->vm->view, err);
}

static int unsave_ports(struct op *op, struct fcm_error *err)
{
	set_texts(op->vm, &op->ports_before);
	return store_vm_save(&op->vm->view, err);
}

const struct step step_ports = {.name = "ports", .run = save_ports, .undo = unsave_ports};

/* ---- the operation ---- */

/* What is published plus `add` and minus `remove` of the request. */
static int choose(const struct op *op, struct publish_list *ports, struct fcm_error *err)
{
	for (size_t i = 0; i < op->publish.n; i++) {
		const char *text = op->publish.v[i];
		if (!op->unpublish) {
			if (publish_add(ports, text, "publish", err) < 0)
				return -1;
			continue;
		}
		size_t at = publish_find(ports, text, "publish", err);
		if (at == ports->n)
			return -1;
		memmove(&ports->v[at], &ports->v[at + 1], (ports->n - at - 1) * sizeof *ports->v);
		ports->n--;
	}
	return 0;
}

int op_publish_run(struct op *op, struct fcm_error *err)
{
	struct publish_list ports;
	bool kept;
	int rc = -1;

	if (claimed_begin(op, err) < 0)
		return -1;
	if (publish_of(op->vm, &ports, err) == 0) {
		op->ports_before = ports;
		rc = choose(op, &ports, err);
	}
	if (rc == 0) {
		op->changed = op->publish.n > 0;
		set_texts(op->vm, &ports);
		rc = steps_run(op, &kept, err);
		if (rc < 0)
			set_texts(op->vm, &op->ports_before);
	}
	registry_drop(op->vm);
	return rc;
}
