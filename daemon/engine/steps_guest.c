/*
 * The guest: its agent answers, and learns who it is (docs/AGENT.md).
 *
 * Rows with it are STEP_KEEP: a guest that doesn't answer in time is left running for its user to look at; only
 * a VMM that ended undoes the operation.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "common/core/log.h"
#include "common/crypt.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/mainlog.h"
#include "daemon/engine/supervise.h"
#include "daemon/engine/timekeeper.h"
#include "daemon/engine/volumes.h"
#include "daemon/engine/wait.h"
#include "daemon/net/net.h"

#define GUEST_FACTS "/run/fcm/instance.json"

enum {
	ENTROPY_BYTES = 64,
	MACHINE_ID_BYTES = 16, /* machine-id(5) */
	HOOKS_MS = 120000,     /* for all of them */
	SLICE_MS = 200,	       /* how often a wait looks whether it still makes sense */
	CONNECT_MS = 1000,     /* one wait for a connection to the agent */
	CALL_MS =
		20000, /* one request to the agent; mounting a large disk after a crash replays its journal */
};

static int64_t patience_ms(const struct op *op)
{
	return op->patience_ms ? op->patience_ms : engine()->config->boot_seconds * 1000ll;
}

static int still(struct op *op, int64_t deadline, struct fcm_error *err)
{
	return wait_goes_on(op, deadline, patience_ms(op), "the guest's agent did not answer", err);
}

/* ---- guest ---- */

/* A channel to the agent: at once where the VMM holds one ready, when the agent listens where the guest must take it. */
static int connect_agent(struct op *op, int64_t deadline, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	auto_close int run = dir_open(vm->dirfd, "jail/run", err);
	int fd = -1;

	while (run >= 0 && (fd = vm->driver->channel(run, MIN(clock_in(CONNECT_MS), deadline), err)) < 0) {
		if (err->code != FCM_TIMEOUT && op_vmm_lives(op))
			return op_last_words(op, err);
		if (still(op, deadline, err) < 0)
			return -1;
	}
	return fd;
}

int guest_reach(struct op *op, int64_t deadline, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	int fd = connect_agent(op, deadline, err);
	const struct guest_events events = {
		.power = supervise_power, .main = supervise_main, .lost = supervise_lost, .arg = vm};
	struct guest_hello hello;
	struct guest *guest;

	if (fd < 0 || guest_open(engine()->loop, fd, &events, &guest, err) < 0)
		return -1;
	vm_set_guest(vm, guest);
	while (guest_hello(vm->guest, MIN(clock_in(SLICE_MS), deadline), &hello, err) < 0) {
		if (err->code != FCM_TIMEOUT && op_vmm_lives(op))
			return op_last_words(op, err);
		if (still(op, deadline, err) < 0)
			return -1;
	}
	VM_SET(vm, fcm_copy(view->boot_id, sizeof view->boot_id, hello.boot_id));
	return 0;
}

static int call(struct vm *vm, struct buf *request, struct buf *answer, struct fcm_error *err)
{
	int rc = wait_wanted(vm, err) < 0 ? -1
					  : guest_call(vm->guest, request, clock_in(CALL_MS), answer, err);

	buf_done(request);
	return rc;
}

/* Requests that go out together. */
struct batch {
	struct guest_ask asks[GUEST_ASKS];
	size_t n;
};

static void batch_done(struct batch *b)
{
	for (size_t i = 0; i < b->n; i++) {
		buf_done(&b->asks[i].request);
		buf_done(&b->asks[i].answer);
	}
}

static int batch_call(struct vm *vm, struct batch *b, struct fcm_error *err)
{
	return wait_wanted(vm, err) < 0 ? -1
					: guest_call_all(vm->guest, b->asks, b->n, clock_in(CALL_MS), err);
}

static struct buf *add_request(struct batch *b, const char *op)
{
	struct buf *rq = &b->asks[b->n++].request;

	kv_add(rq, "op", op);
	return rq;
}

static void add_file(struct batch *b, const char *path, const char *mode, const void *data, size_t n)
{
	struct buf *rq = add_request(b, "file");

	kv_add(rq, "path", path);
	kv_add(rq, "mode", mode);
	kv_add(rq, "uid", "0");
	kv_add(rq, "gid", "0");
	kv_end(rq);
	buf_add(rq, data, n);
}

static void add_text_file(struct batch *b, const char *path, struct buf *text)
{
	add_file(b, path, "644", text->p, text->n);
	buf_done(text);
}

/* As well as a busy host can. A guest that doesn't take the time, or whose host doesn't know it, is a guest all the same. */
void guest_set_clock(struct vm *vm)
{
	struct fcm_error err;

	if (guest_tell_time(vm->guest, clock_in(TIME_ANSWER_MS), TIME_TRIP_MS, &err) == 0)
		return;
	if (err.code != FCM_TIMEOUT || guest_tell_time(vm->guest, clock_in(CALL_MS), CALL_MS, &err) < 0)
		log_error(LOG_LEVEL_WARN, vm->id.s, &err);
}

/* Mount the root; *ret_sshd says which ssh server the image has. */
static int mount_root(struct vm *vm, char ret_sshd[16], struct fcm_error *err)
{
	struct buf rq = {0};
	_cleanup_(buf_done) struct buf answer = {0};

	kv_add(&rq, "op", "mount");
	kv_add(&rq, "image", "/dev/vda");
	kv_add(&rq, "disk", "/dev/vdb");
	if (call(vm, &rq, &answer, err) < 0)
		return -1;
	const char *sshd = kv_get(answer.p, answer.n, "sshd");
	fcm_copy(ret_sshd, 16, sshd ? sshd : "none");
	return 0;
}

/* What it calls itself. */
static const char *hostname(const struct vm *vm)
{
	return vm->view.spec.hostname[0] ? vm->view.spec.hostname : vm->view.name;
}

static void add_network(struct vm *vm, struct batch *b)
{
	struct buf *rq = add_request(b, "net");

	fcm_copy(vm->hostname, sizeof vm->hostname, hostname(vm));
	kv_add(rq, "address", ip_dotted(vm->view.ip).s);
	kv_addf(rq, "prefix", "%u", engine()->ipam.pool.prefix);
	kv_add(rq, "gateway", ip_dotted(engine()->config->gateway).s);
	kv_add(rq, "hostname", vm->hostname);
}

static void add_names(const struct vm *vm, struct batch *b)
{
	struct buf name = {0}, hosts = {0}, resolv = {0};
	_cleanup_(strv_done) struct strv dns = {0};
	bool other = strcmp(vm->hostname, vm->view.name) != 0;

	net_resolvers(&dns);
	buf_printf(&name, "%s\n", vm->hostname);
	buf_printf(&hosts, "127.0.0.1\tlocalhost\n::1\tlocalhost\n%s\t%s%s%s\n", ip_dotted(vm->view.ip).s,
		vm->hostname, other ? " " : "", other ? vm->view.name : "");
	for (size_t i = 0; i < dns.n; i++)
		buf_printf(&resolv, "nameserver %s\n", dns.v[i]);
	add_text_file(b, "/etc/hostname", &name);
	add_text_file(b, "/etc/hosts", &hosts);
	if (resolv.n)
		add_text_file(b, "/etc/resolv.conf", &resolv);
}

static int add_host_key(const struct vm *vm, struct batch *b, struct fcm_error *err)
{
	uint8_t key[CRYPT_ED25519];

	if (store_hostkey_load(&vm->id, key, err) < 0)
		return -1;
	if (strcmp(vm->sshd, "dropbear") == 0) {
		_cleanup_(buf_done) struct buf text = {0};
		crypt_dropbear_private(key, &text);
		add_file(b, "/etc/dropbear/dropbear_ed25519_host_key", "600", text.p, text.n);
		return 0;
	}
	auto_free char *private = crypt_openssh_private(key, vm->view.name);
	auto_free char *public = crypt_ssh_public(key);
	add_file(b, "/etc/ssh/ssh_host_ed25519_key", "600", private, strlen(private));
	add_file(b, "/etc/ssh/ssh_host_ed25519_key.pub", "644", public, strlen(public));
	return 0;
}

/* OpenSSH reads authorized_keys2 by default as well (sshd_config(5)), so ours never touch those that the user
 * of the guest keeps in authorized_keys. dropbear knows the latter only. */
static void add_keys(const struct vm *vm, struct batch *b)
{
	_cleanup_(buf_done) struct buf text = {0};
	const struct strv *keys = &vm->view.spec.ssh_keys;

	buf_str(&text, "# managed by fcm\n");
	for (size_t i = 0; i < keys->n; i++)
		buf_printf(&text, "%s\n", keys->v[i]);
	const char *path = strcmp(vm->sshd, "dropbear") == 0 ? "/root/.ssh/authorized_keys"
							     : "/root/.ssh/authorized_keys2";
	add_file(b, path, "600", text.p, text.n);
}

int guest_put_keys(struct vm *vm, struct fcm_error *err)
{
	_cleanup_(batch_done) struct batch b = {.n = 0};

	add_keys(vm, &b);
	return batch_call(vm, &b, err);
}

/* What programs in the guest may know of their machine (docs/AGENT.md, "Facts"): nothing that is secret. */
static void add_facts(const struct vm *vm, struct batch *b)
{
	const struct strv *labels = &vm->view.spec.labels;
	auto_json field_json *facts = fj_object();
	field_json *all = fj_object();

	fj_set_str(facts, "id", vm->id.s);
	fj_set_str(facts, "name", vm->view.name);
	fj_set_str(facts, "hostname", vm->hostname);
	fj_set_str(facts, "ip", ip_dotted(vm->view.ip).s);
	fj_set_int(facts, "boot", vm->view.boots);
	for (size_t i = 0; i < labels->n; i++) {
		size_t n = strcspn(labels->v[i], "=");
		auto_free char *key = xprintf("%.*s", (int)n, labels->v[i]);
		fj_set_str(all, key, labels->v[i] + n + 1);
	}
	fj_set(facts, "labels", all);
	auto_free char *json = fj_print(facts, false);
	struct buf text = {0};
	buf_printf(&text, "%s\n", json);
	add_text_file(b, GUEST_FACTS, &text);
}

void guest_renew_facts(struct vm *vm)
{
	_cleanup_(batch_done) struct batch b = {.n = 0};
	struct fcm_error err;

	vm->facts_late = vm->paused;
	if (!vm->set_up || vm->paused)
		return;
	add_facts(vm, &b);
	if (batch_call(vm, &b, &err) < 0)
		log_error(LOG_LEVEL_WARN, vm->id.s, &err);
}

static int start_image(struct vm *vm, struct fcm_error *err)
{
	struct buf rq = {0};

	kv_add(&rq, "op", "start");
	for (size_t i = 0; i < vm->view.spec.env.n; i++)
		kv_add(&rq, "env", vm->view.spec.env.v[i]);
	return call(vm, &rq, NULL, err);
}

static void add_text(struct buf *rq, const char *key, const char *value)
{
	if (value && *value)
		kv_add(rq, key, value);
}

/* docs/AGENT.md, "Main process" */
int guest_start_main(struct vm *vm, struct fcm_error *err)
{
	const struct main_spec *m = &vm->view.spec.main;
	struct buf rq = {0};

	if (m->args.n == 0)
		return 0;
	kv_add(&rq, "op", "main");
	for (size_t i = 0; i < m->args.n; i++)
		kv_add(&rq, "arg", m->args.v[i]);
	add_text(&rq, "dir", m->dir);
	add_text(&rq, "user", m->user);
	for (size_t i = 0; i < m->tmpfs.n; i++)
		kv_add(&rq, "tmpfs", m->tmpfs.v[i]);
	add_text(&rq, "tty", m->tty ? "1" : NULL);
	add_text(&rq, "stdin", m->with_stdin ? "1" : NULL);
	add_text(&rq, "read_only", m->read_only ? "1" : NULL);
	if (m->stop_signal)
		kv_addf(&rq, "stop_signal", "%u", m->stop_signal);
	return call(vm, &rq, NULL, err) < 0 ? -1 : mainlog_watch(vm, err);
}

/* ---- a guest that goes on from a saved machine ---- */

static void add_random(struct buf *rq, const char *key, size_t bytes)
{
	uint8_t random[ENTROPY_BYTES];
	char hex[2 * ENTROPY_BYTES + 1];

	crypt_random(random, bytes);
	crypt_hex(random, bytes, hex);
	kv_add(rq, key, hex);
}

/* Nobody else may have its random numbers; and where it has become another VM, it must not have that one's names. */
static int renew(struct vm *vm, struct fcm_error *err)
{
	struct buf rq = {0};

	if (vm->run.loaded == LOADED_NOT)
		return 0;
	kv_add(&rq, "op", "identity");
	add_random(&rq, "entropy", ENTROPY_BYTES);
	if (vm->run.loaded == LOADED_CLONE) {
		add_random(&rq, "machine_id", MACHINE_ID_BYTES);
		kv_add(&rq, "mac", vm->view.mac);
	}
	if (call(vm, &rq, NULL, err) == 0)
		return 0;
	if (vm->run.loaded == LOADED_CLONE || err->code != FCM_GUEST)
		return -1;
	/* an agent of before there was such a thing: the machine is itself again, all the same */
	log_error(LOG_LEVEL_WARN, vm->id.s, err);
	return 0;
}

/* A daemon that was killed may have left it frozen, too. An agent of before there was such a thing doesn't know the word. */
static int thaw(struct vm *vm, bool adopted, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf answer = {0};
	struct buf rq = {0};
	struct fcm_error ignored;

	if (vm->run.loaded == LOADED_NOT && !adopted)
		return 0;
	kv_add(&rq, "op", "thaw");
	if (call(vm, &rq, &answer, adopted ? &ignored : err) < 0)
		return adopted || (vm->run.loaded == LOADED_SAME && err->code == FCM_GUEST) ? 0 : -1;
	if (vm->run.loaded == LOADED_CLONE && kv_get(answer.p, answer.n, "thawed") == NULL)
		log_line(LOG_LEVEL_WARN, vm->id.s,
			"its programs ran on as those of '%s' before it was another VM", vm->run.was_name);
	return 0;
}

int guest_await(struct op *op, const struct buf *request, int64_t patience_ms, const char *what,
	char why[PROBE_WHY], struct fcm_error *err)
{
	int64_t deadline = clock_in(patience_ms);
	enum probe_state state;
	struct probe *probe;
	int rc = 0;

	if (probe_begin(op->vm->guest, request, &probe, err) < 0)
		return -1;
	while (rc == 0 && (state = probe_poll(probe, why)) == PROBE_LATER) {
		struct pollfd p = {.fd = probe_fd(probe), .events = POLLIN};
		rc = wait_goes_on(op, deadline, patience_ms, what, err);
		poll(&p, 1, rc == 0 ? SLICE_MS : 0);
	}
	probe_free(probe);
	return rc < 0 ? -1 : state == PROBE_GOOD;
}

/* What its user wants done in a clone (docs/AGENT.md, "Hooks"). One that fails keeps nothing from running. */
static void run_hooks(struct op *op)
{
	const struct vm *vm = op->vm;
	_cleanup_(buf_done) struct buf rq = {0};
	struct fcm_error err;
	char why[PROBE_WHY];

	if (vm->run.loaded != LOADED_CLONE)
		return;
	kv_add(&rq, "op", "hooks");
	kv_add(&rq, "id", vm->id.s);
	kv_add(&rq, "name", vm->view.name);
	kv_add(&rq, "ip", ip_dotted(vm->view.ip).s);
	kv_add(&rq, "old_id", vm->run.was_id);
	kv_add(&rq, "old_name", vm->run.was_name);
	kv_add(&rq, "old_ip", ip_dotted(vm->run.was_ip).s);
	int rc = guest_await(op, &rq, HOOKS_MS, "the hooks of /etc/fcm/clone.d have not ended", why, &err);
	if (rc < 0)
		log_error(LOG_LEVEL_WARN, vm->id.s, &err);
	else if (rc == 0)
		log_line(LOG_LEVEL_WARN, vm->id.s, "a hook of /etc/fcm/clone.d failed: %s", why);
}

/* It has learned all of it. */
static int note_renewed(struct vm *vm, struct fcm_error *err)
{
	if (vm->run.loaded == LOADED_NOT)
		return 0;
	vm->run.loaded = LOADED_NOT;
	return store_run_save(&vm->id, &vm->run, err);
}

/* Who it is: its network, and all files that say so. */
static int introduce(struct vm *vm, struct fcm_error *err)
{
	_cleanup_(batch_done) struct batch b = {.n = 0};

	add_network(vm, &b);
	add_names(vm, &b);
	add_facts(vm, &b);
	if (strcmp(vm->sshd, "none") != 0) {
		if (add_host_key(vm, &b, err) < 0)
			return -1;
		add_keys(vm, &b);
	}
	return batch_call(vm, &b, err);
}

static int setup(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	guest_set_clock(vm);
	/* the volumes before the files: what is written then lands in them where they are in the way */
	if (renew(vm, err) < 0 || mount_root(vm, vm->sshd, err) < 0 || volumes_mount(op, err) < 0 ||
		introduce(vm, err) < 0)
		return -1;
	if (thaw(vm, op->table == &table_adopt, err) < 0 || start_image(vm, err) < 0)
		return -1;
	if (!vm->view.spec.hold && guest_start_main(vm, err) < 0)
		return -1;
	run_hooks(op);
	return note_renewed(vm, err);
}

static bool channel_is_lost(struct vm *vm)
{
	struct guest_hello hello;
	struct fcm_error err;

	return guest_hello(vm->guest, clock_in(0), &hello, &err) < 0;
}

/* Every request of the setup may be repeated, so an adopted guest simply gets it again: the last daemon may
 * have been killed anywhere in it. So does one that goes on from its memory, if it closes the new channel with the old ones: that
 * these are of another time (virtio 1.2, section 5.10.6.7, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET) a busy one hears late. */
static int guest_up(struct op *op, struct fcm_error *err)
{
	op->vm->set_up = false;
	if (op->table != &table_adopt && wait_ready_spec(op)->mode == READY_NONE) {
		supervise_new(op->vm); /* set it up when nobody waits */
		return 0;
	}
	int64_t deadline = clock_in(patience_ms(op));
	bool again = op->vm->run.loaded != LOADED_NOT;

	if (guest_reach(op, deadline, err) < 0)
		return -1;
	while (setup(op, err) < 0) {
		if (!again || !channel_is_lost(op->vm))
			return op_last_words(op, err);
		if (guest_reach(op, deadline, err) < 0)
			return -1;
		again = false;
	}
	op->vm->set_up = true;
	return 0;
}

static int guest_down(struct op *op, struct fcm_error *err)
{
	(void)err;
	op->vm->set_up = false;
	mainlog_unwatch(op->vm);
	vm_set_guest(op->vm, NULL);
	return 0;
}

static void guest_describe(const struct op *op, bool undo, struct strv *ret)
{
	if (undo)
		return;
	strv_addf(ret, "wait for the agent's HELLO at %s/jail/run/" VMM_AGENT ", at most %u s", op->vm->id.s,
		engine()->config->boot_seconds);
	strv_addf(ret,
		"agent clock, mount, net %s, file: hostname hosts resolv.conf facts host key %zu authorized "
		"keys, "
		"start",
		ip_dotted(op->vm->view.ip).s, op->vm->view.spec.ssh_keys.n);
}

const struct step step_guest = {
	.name = "guest", .run = guest_up, .undo = guest_down, .describe = guest_describe};
