/*
 * The VMM: its process under a shim, the connection to its control socket, the first run of its virtual CPUs;
 * and the quiet way to end a guest.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/mainlog.h"
#include "daemon/engine/saved.h"
#include "daemon/engine/supervise.h"
#include "daemon/engine/volumes.h"
#include "daemon/engine/wait.h"
#include "daemon/guest/intake.h"
#include "daemon/image/image.h"
#include "daemon/net/net.h"
#include "daemon/proc/cgroup.h"
#include "daemon/shim/lastword.h"
#include "daemon/shim/shim.h"

enum {
	BOOT_MS = 20000, /* Firecracker reads kernel and initrd in it: 0.1 s, but a busy host has taken 6 */
	START_MS =
		30000, /* shim and VMM up and answering; 35 ms on an idle machine, seconds when many start at once */
	LOAD_MS = 60000,     /* a machine's memory, from a disk that may be busy */
	ADOPT_MS = 5000,     /* for one that runs already; a slower one is left alone and tried again */
	END_MS = 200,	     /* from a VMM that closes its socket to its end */
	DIE_MS = 5000,	     /* from SIGKILL to the end of the process */
	CONSOLE_TAIL = 2048, /* bytes of console looked at for an error message, or for the guest's intent */
	LAST_MS = 3000,	     /* of the time to shut down: for what the agent does when no process is left */
	ASK_MS = 2000,	     /* for the guest to say that it heard the wish to shut down */
	REACH_MS = 5000,     /* for a new channel to ask it on */
	SLICE_MS = 200,	     /* how often a wait for its end looks whether it still makes sense */
};

/* All that a driver must know of a VM, with the strings it points to. */
struct vmm_facts {
	struct vmm_config config;
	char *image, *vmlinux, *initrd, *disk, *run, *saved, *preload, *volumes[VMM_VOLUMES];
};

static void vmm_facts_done(struct vmm_facts *f)
{
	free(f->image);
	free(f->vmlinux);
	free(f->initrd);
	free(f->disk);
	free(f->run);
	free(f->saved);
	free(f->preload);
	for (size_t i = 0; i < ARRAY_SIZE(f->volumes); i++)
		free(f->volumes[i]);
}

static void add_volumes(const struct vm_spec *spec, struct vmm_facts *f)
{
	struct volume_ref refs[VM_MAX_VOLUMES];

	_Static_assert((int)VMM_VOLUMES == (int)VM_MAX_VOLUMES, "a drive for each volume");
	f->config.n_volumes = volumes_parse(&spec->volumes, refs);
	for (size_t i = 0; i < f->config.n_volumes; i++) {
		f->volumes[i] = engine_path("volumes/%s/" VOLUME_FILE, refs[i].name.s);
		f->config.volumes[i].path = f->volumes[i];
		f->config.volumes[i].read_only = refs[i].read_only;
	}
}

static int vmm_facts(const struct vm *vm, struct vmm_facts *ret, struct fcm_error *err)
{
	const struct vm_view *v = &vm->view;
	struct asset_name kernel;

	if (image_path(&v->image_id, &ret->image, err) < 0 ||
		asset_name_parse(v->spec.kernel, "kernel", &kernel, err) < 0 ||
		kernel_paths(&kernel, &ret->vmlinux, &ret->initrd, err) < 0)
		return -1;
	ret->disk = engine_path("%s/rootfs.img", vm->id.s);
	ret->run = engine_path("%s/jail/run", vm->id.s);
	ret->saved = vm->loading ? engine_path("%s/" SAVED, vm->id.s) : NULL;
	ret->preload = vmm_preload(engine()->config->shim);
	ret->config = (struct vmm_config){
		.id = vm->id,
		.vcpus = v->spec.vcpus,
		.mem_mib = v->spec.mem_mib,
		.ip = v->ip,
		.gateway = engine()->config->gateway,
		.prefix = engine()->ipam.pool.prefix,
		.binary = engine()->probe.binary,
		.version = engine()->probe.version,
		.kernel = ret->vmlinux,
		.initrd = ret->initrd,
		.image = ret->image,
		.disk = ret->disk,
		.run = ret->run,
		.saved = ret->saved,
		.saved_memory = vm->loading && saved_memory(vm),
		.preload = ret->preload,
		.disk_mib_per_second = engine()->config->disk_mib_per_second,
		.disk_ops_per_second = engine()->config->disk_ops_per_second,
		.accel = engine()->probe.accel,
		.tsc_khz = engine()->tsc_khz,
	};
	fcm_copy(ret->config.saved_id.s, sizeof ret->config.saved_id.s, vm->run.was_id);
	net_mac(v->ip, ret->config.mac);
	add_volumes(&v->spec, ret);
	return vm_name_parse(v->name, "name", &ret->config.name, err);
}

/* ---- vmm: the process ---- */

/* The last line of what was printed; "" when there is none. It is cut off there. */
static const char *last_line(struct buf *text)
{
	text->n = text->n ? fcm_printable(text->p, text->n) : 0;
	while (text->n && strchr(" \n\t?", text->p[text->n - 1]))
		text->n--;
	if (text->n == 0)
		return "";
	text->p[text->n] = '\0';
	const char *newline = memrchr(text->p, '\n', text->n);
	return newline ? newline + 1 : text->p;
}

static void add_words(struct fcm_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add_words(struct fcm_error *err, const char *fmt, ...)
{
	size_t n = strlen(err->msg);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err->msg + n, sizeof err->msg - n, fmt, ap);
	va_end(ap);
}

int op_last_words(const struct op *op, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf tail = {0};
	const struct vm *vm = op->vm;
	int code = vm_main_exit(vm);
	uint64_t total;
	struct fcm_error ignored;

	if (code >= 0)
		mainlog_tail(vm->dirfd, CONSOLE_TAIL, &tail);
	else
		(void)!shim_ring_tail(vm->dirfd, CONSOLE_TAIL, &tail, &total, &ignored);
	const char *line = last_line(&tail);
	if (code >= 0)
		add_words(err, "; its main process ended with %d%s%.160s", code, *line ? ": " : "", line);
	else if (*line)
		add_words(err, "; its console ends with: %.160s", line);
	if (op->table != &table_create || op_vmm_lives(op))
		return fcm_hint(err, "fcm logs %s", vm->view.name);
	return fcm_hint(
		err, code >= 0 ? "it is gone again; without --wait-ready it stays, and fcm logs says more"
			       : "it is gone again");
}

/* The end of this run's console; an earlier run's last word isn't this one's. */
static void read_tail(const struct vm *vm, struct buf *ret)
{
	uint64_t total, begin = (uint64_t)vm->run.console;
	struct fcm_error ignored;

	if (shim_ring_tail(vm->dirfd, CONSOLE_TAIL, ret, &total, &ignored) < 0 || total < begin)
		buf_done(ret);
	else if (ret->n > total - begin)
		buf_drop(ret, ret->n - (size_t)(total - begin));
}

/* Where nobody asked the agent. */
static enum guest_power kernels_wish(const char *text, size_t n)
{
	switch (last_word(text, n)) {
	case WORD_HALTED:
	case WORD_POWER_OFF:
		return GUEST_POWEROFF;
	case WORD_RESTART:
		return GUEST_REBOOT;
	case WORD_NONE:
		break;
	}
	return GUEST_CRASHED;
}

enum guest_power vm_last_wish(const struct vm *vm)
{
	_cleanup_(buf_done) struct buf tail = {0};

	if (vm->intent == GUEST_CRASHED)
		read_tail(vm, &tail);
	if (tail.n == 0)
		return (enum guest_power)vm->intent;
	enum guest_power agents = intake_console(tail.p, tail.n);
	return agents == GUEST_CRASHED ? kernels_wish(tail.p, tail.n) : agents;
}

int vm_main_exit(const struct vm *vm)
{
	_cleanup_(buf_done) struct buf tail = {0};

	if (vm->main_exit < 0 && vm->view.spec.main.args.n)
		read_tail(vm, &tail);
	return tail.n ? intake_console_main(tail.p, tail.n) : vm->main_exit;
}

/* Where the console of the run that begins now will begin. */
static int64_t console_begin(const struct vm *vm)
{
	_cleanup_(buf_done) struct buf none = {0};
	uint64_t total = 0;
	struct fcm_error ignored;

	(void)!shim_ring_tail(vm->dirfd, 0, &none, &total, &ignored);
	return (int64_t)total;
}

static int spawn(
	struct vm *vm, const struct vmm_facts *facts, const struct vmm_plan *plan, struct fcm_error *err)
{
	auto_close int ring = shim_ring_make(vm->dirfd, err);
	auto_close int tap = -1;
	auto_free char *jail = engine_path("%s/jail", vm->id.s);
	_cleanup_(strv_done) struct strv groups = {0};

	if (ring < 0 || (plan->tap_fd >= 0 && (tap = net_tap_open(&vm->id, err)) < 0))
		return -1;
	cgroup_procs(&vm->id, &groups);
	struct shim_spec spec = {
		.id = vm->id,
		.shim = engine()->config->shim,
		.jail = jail,
		.vm_dirfd = vm->dirfd,
		.ring_fd = ring,
		.tap_fd = tap,
		.uid = vm->view.uid,
		.kvm_gid = facts->config.accel == VMM_KVM ? engine()->kvm_gid : 0,
		.cgroups = &groups,
		.plan = plan,
		.deadline = clock_in(START_MS),
	};
	return shim_start(&spec, &vm->run.shim, &vm->run.vmm, err);
}

/* The seed's name of the control socket. A convenience: nothing depends on it, so a failure is none. */
static void link_socket(const struct vm *vm)
{
	(void)!symlinkat("jail/run/" VMM_CONTROL, vm->dirfd, "firecracker.socket");
}

static const char *const leftovers[] = {"jail/run/" VMM_CONTROL, "jail/run/" VMM_AGENT,
	"jail/run/" VMM_CONSOLE, "jail/run/" VMM_STATE, "jail/run/" VMM_MEMORY, "firecracker.socket",
	"firecracker.pid"};

/* A VMM that was taken over may have made directories of them. */
static int remove_leftovers(const struct vm *vm, struct fcm_error *err)
{
	for (size_t i = 0; vm->dirfd >= 0 && i < ARRAY_SIZE(leftovers); i++)
		if (dir_remove(vm->dirfd, leftovers[i], NULL, err) < 0)
			return -1;
	return 0;
}

/* What it begins with: nothing, or a saved machine. */
static int find_saved(struct vm *vm, struct fcm_error *err)
{
	_cleanup_(snapshot_done) struct snapshot s = {0};

	vm->loading = saved_there(vm);
	vm->run.loaded = LOADED_NOT;
	if (!vm->loading)
		return 0;
	if (saved_read(vm, &s, err) < 0)
		return -1;
	fcm_copy(vm->run.was_id, sizeof vm->run.was_id, s.vm.id);
	fcm_copy(vm->run.was_name, sizeof vm->run.was_name, s.vm.name);
	vm->run.was_ip = s.vm.ip;
	vm->run.loaded = strcmp(s.vm.id, vm->id.s) == 0 ? LOADED_SAME : LOADED_CLONE;
	return 0;
}

static int vmm_up(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	_cleanup_(vmm_facts_done) struct vmm_facts facts = {0};
	_cleanup_(vmm_plan_done) struct vmm_plan plan = {.tap_fd = -1};

	vm->driver = engine()->driver;
	vm->intent = GUEST_CRASHED;
	vm->main_exit = -1;
	vm->offered = false;
	vm->run.booted = vm->paused = vm->frozen = false;
	vm->run.console = console_begin(vm);
	/* A host that lost its power left sockets behind, on which Firecracker doesn't start. */
	if (find_saved(vm, err) < 0 || remove_leftovers(vm, err) < 0 || vmm_facts(vm, &facts, err) < 0 ||
		vm->driver->plan(&facts.config, &plan, err) < 0 || spawn(vm, &facts, &plan, err) < 0)
		return -1;
	fcm_copy(vm->run.vmm_driver, sizeof vm->run.vmm_driver, vm->driver->name);
	if ((vm->shim_pidfd = proc_open(&vm->run.shim, err)) < 0 ||
		store_run_save(&vm->id, &vm->run, err) < 0)
		return -1;
	link_socket(vm);
	VM_SET(vm, view->boots += vm->run.loaded != LOADED_SAME; view->vmm_pid = vm->run.vmm.pid;
		fcm_copy(view->vmm, sizeof view->vmm, vm->driver->name);
		fcm_copy(view->accel, sizeof view->accel, facts.config.accel == VMM_KVM ? "kvm" : "tcg");
		fcm_copy(view->vmm_reason, sizeof view->vmm_reason, engine()->probe.reason));
	return 0;
}

/* End both processes, whatever state they are in, and wait for them: the VMM first, whose shim then writes
 * how it ended and ends by itself. */
static int end_processes(struct vm *vm, struct fcm_error *err)
{
	struct fcm_error gone;
	auto_close int vmm = proc_open(&vm->run.vmm, &gone);

	if (vmm >= 0 && proc_signal(vmm, SIGKILL, err) < 0)
		return -1;
	if (vm->shim_pidfd >= 0 && !proc_wait(vm->shim_pidfd, clock_in(DIE_MS))) {
		if (proc_signal(vm->shim_pidfd, SIGKILL, err) < 0)
			return -1;
		if (!proc_wait(vm->shim_pidfd, clock_in(DIE_MS)))
			return fcm_fail(err, FCM_VMM, "process %d doesn't end", vm->run.shim.pid);
	}
	if (vmm >= 0 && !proc_wait(vmm, clock_in(DIE_MS)))
		return fcm_fail(err, FCM_VMM, "process %d doesn't end", vm->run.vmm.pid);
	return 0;
}

static int vmm_down(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	struct fcm_error none;

	supervise_unwatch(vm);
	if (vm->shim_pidfd < 0) {
		struct vm_run run = vm->run; /* without a record: what shim_start() said, or nobody */
		(void)!store_run_load(&vm->id, &run, &none);
		registry_lock(); /* engine_stats() may be reading it */
		vm->run = run;
		registry_unlock();
		vm->shim_pidfd = proc_open(&vm->run.shim, &none);
	}
	if (end_processes(vm, err) < 0)
		return -1;
	fcm_closep(&vm->shim_pidfd);
	vm->paused = vm->frozen = false;
	if (remove_leftovers(vm, err) < 0)
		return -1;
	VM_SET(vm, view->vmm_pid = 0);
	return 0; /* the record of the run goes when config.json says what came of it: `end`, `directory` */
}

static void vmm_describe(const struct op *op, bool undo, struct strv *ret)
{
	const struct vm *vm = op->vm;
	_cleanup_(vmm_facts_done) struct vmm_facts facts = {0};
	_cleanup_(vmm_plan_done) struct vmm_plan plan = {.tap_fd = -1};
	_cleanup_(strv_done) struct strv groups = {0};
	struct fcm_error err;

	if (undo) {
		if (vm->view.vmm_pid)
			strv_addf(ret, "kill process %lld, wait for its shim", (long long)vm->view.vmm_pid);
		strv_addf(ret, "remove the sockets below %s/jail/run", vm->id.s);
		return;
	}
	if (vmm_facts(vm, &facts, &err) < 0 || engine()->driver->plan(&facts.config, &plan, &err) < 0) {
		strv_addf(ret, "%s", err.msg);
		return;
	}
	auto_free char *jail = engine_path("%s/jail", vm->id.s);
	cgroup_procs(&vm->id, &groups);
	struct shim_spec spec = {.id = vm->id,
		.shim = engine()->config->shim,
		.jail = jail,
		.vm_dirfd = -1,
		.ring_fd = -1,
		.tap_fd = plan.tap_fd,
		.uid = vm->view.uid,
		.cgroups = &groups,
		.plan = &plan};
	shim_describe(&spec, ret);
}

const struct step step_vmm = {.name = "vmm", .run = vmm_up, .undo = vmm_down, .describe = vmm_describe};

/* ---- attach: the control socket ---- */

/* A VMM that ended printed why; one that lives has said it. What closed its socket is ending. */
static int with_last_words(const struct op *op, struct fcm_error *err)
{
	if (err->code == FCM_VMM && op_vmm_lives(op))
		proc_wait(op->vm->shim_pidfd, clock_in(END_MS));
	return op_vmm_lives(op) ? -1 : op_last_words(op, err);
}

/* A daemon that was killed while it made a snapshot left its VM paused, and one that was killed in a resume has it running. */
static int as_it_was(struct vm *vm, struct fcm_error *err)
{
	return vm->paused ? vm->driver->pause(vm->vmm, clock_in(ADOPT_MS), err)
			  : vm->driver->resume(vm->vmm, clock_in(ADOPT_MS), err);
}

static int attach(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	_cleanup_(vmm_facts_done) struct vmm_facts facts = {0};
	bool adopt = op->table != &table_create && op->table != &table_start && op->table != &table_clone;
	int64_t deadline = clock_in(adopt ? ADOPT_MS : START_MS);

	if (vm->vmm)
		return 0; /* only the guest's session is begun anew */
	if (adopt)
		vm->paused = vm->view.state == VM_PAUSED;
	auto_close int run = dir_open(vm->dirfd, "jail/run", err);
	if (run < 0)
		return -1;
	if (vm->driver->attach(run, deadline, &vm->vmm, err) < 0)
		return with_last_words(op, err);
	if (adopt)
		return as_it_was(vm, err);
	if (vmm_facts(vm, &facts, err) < 0)
		return -1;
	int rc = vm->loading ? vm->driver->load(vm->vmm, &facts.config, clock_in(LOAD_MS), err)
			     : vm->driver->configure(vm->vmm, &facts.config, deadline, err);
	return rc < 0 ? with_last_words(op, err) : 0;
}

static int detach(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	(void)err;
	if (vm->vmm)
		vm->driver->free(STEAL(vm->vmm));
	return 0;
}

static void attach_describe(const struct op *op, bool undo, struct strv *ret)
{
	_cleanup_(vmm_facts_done) struct vmm_facts facts = {0};
	struct fcm_error err;

	if (!undo && vmm_facts(op->vm, &facts, &err) == 0)
		engine()->driver->describe(&facts.config, ret);
}

const struct step step_attach = {
	.name = "attach", .run = attach, .undo = detach, .describe = attach_describe};

/* ---- boot ---- */

static int boot(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	/* with the first instruction the disk is no longer the one that the saved memory knows */
	if (vm->loading && saved_discard(vm, err) < 0)
		return -1;
	int rc = vm->loading ? vm->driver->resume(vm->vmm, clock_in(BOOT_MS), err)
			     : vm->driver->boot(vm->vmm, clock_in(BOOT_MS), err);
	if (rc < 0)
		return with_last_words(op, err);
	vm->run.booted = true;
	op->resumed = vm->loading;
	return store_run_save(&vm->id, &vm->run, err);
}

const struct step step_boot = {.name = "boot", .run = boot};

/* ---- quiet: ask the guest to end, by the agent, then by what the machine has ---- */

/* Has the shim ended by then? The wait is given up when somebody wants the VM killed. */
static bool ends_by(struct vm *vm, int64_t deadline)
{
	if (vm->shim_pidfd < 0)
		return true;
	while (!vm->urgent && clock_left(deadline))
		if (proc_wait(vm->shim_pidfd, MIN(deadline, clock_in(SLICE_MS))))
			return true;
	return proc_wait(vm->shim_pidfd, clock_ms());
}

static bool ask_agent(struct vm *vm, int64_t grace_ms)
{
	_cleanup_(buf_done) struct buf request = {0};
	struct fcm_error err;

	if (vm->guest == NULL)
		return false;
	kv_add(&request, "op", "power");
	kv_add(&request, "intent", "poweroff");
	kv_addf(&request, "grace_ms", "%lld", (long long)MAX(grace_ms / 2, grace_ms - LAST_MS));
	return guest_call(vm->guest, &request, clock_in(MIN(grace_ms, (int64_t)ASK_MS)), NULL, &err) == 0;
}

static bool ask_machine(struct vm *vm)
{
	struct fcm_error err;

	return vm->vmm && (vm->driver->caps & VMM_CAP_SOFT_OFF) &&
	       vm->driver->soft_off(vm->vmm, clock_in(ASK_MS), &err) == 0;
}

/* What a daemon has that just began, or whose VMM didn't answer in time, isn't enough to ask nicely. */
static void reach(struct op *op)
{
	struct vm *vm = op->vm;
	struct fcm_error err;

	if (vm->vmm == NULL && (!op_vmm_lives(op) || attach(op, &err) < 0))
		return;
	if (vm->guest == NULL)
		(void)!guest_reach(op, clock_in(MIN(op->grace_ms, (int64_t)REACH_MS)), &err);
}

/* One that stands still can't end by itself. */
static void let_run(struct vm *vm)
{
	struct fcm_error err;

	if (vm->paused && vm->vmm && vm->driver->resume(vm->vmm, clock_in(ASK_MS), &err) == 0)
		vm->paused = false;
}

static int quiet(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	(void)err;
	supervise_unwatch(vm); /* the end that comes now is wanted */
	if (op->grace_ms > 0)
		reach(op);
	let_run(vm);
	int64_t deadline = clock_in(op->grace_ms); /* all of it is the guest's */
	if (op->grace_ms > 0 && (ask_agent(vm, op->grace_ms) || ask_machine(vm)) && ends_by(vm, deadline))
		return 0;
	op->forced = !ends_by(vm, clock_ms());
	return 0; /* the row behind this one ends it by force */
}

static void quiet_describe(const struct op *op, bool undo, struct strv *ret)
{
	(void)undo;
	if (op->vm->view.vmm_pid)
		strv_addf(ret, "ask the guest's agent for a poweroff, wait %lld s",
			(long long)op->grace_ms / 1000);
}

const struct step step_quiet = {.name = "quiet", .run = quiet, .describe = quiet_describe};
