/*
 * fake-firecracker: Firecracker's command line, API, vsock and the agent's protocol, and no guest. For tests of the driver
 * with a VMM that misbehaves. Its honest answers are those of a real 1.12.1: a test replays recorded calls against it
 * (tests/contract/vmm/calls.jsonl).
 *
 * Honest unless the guest's name is fault-<kind>, as for fake-vmm, or `--id` is a kind itself, which holds from the first
 * call on (dieN: 1 is GET /).
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "tests/fake/fake.h"

#define BEFORE "The requested operation is not supported before starting the microVM."
#define AFTER "The requested operation is not supported after starting the microVM."

enum { MARKER_MS = 5, BODY_MAX = 51200 };

struct fc {
	struct machine m;
	char id[64], uds[108];
	bool started, kernel;
	unsigned mem_mib;
	unsigned connects; /* to the agent */
	bool voided;	   /* it was saved or loaded: the next of them ends when something is said on it */
	bool linked_void;  /* this one */
	bool linked;	   /* CONNECT was answered on the agent's connection */
	char last[1024];   /* the answer before */
};

struct request {
	char method[8], path[128];
	const char *body;
};

/* ---- answers ---- */

static void say(struct fc *f, const char *answer)
{
	struct buf *out = &f->m.control.out;
	size_t n = strlen(answer);

	switch (f->m.fault) {
	case FAULT_HUNG:
		return;
	case FAULT_SLOW:
		clock_sleep(FAULT_SLOW_MS);
		break;
	case FAULT_GARBAGE:
		buf_str(out, "SSH-2.0-OpenSSH_9.2\r\n\r\n");
		return;
	case FAULT_HALF:
		n /= 2;
		break;
	case FAULT_CLOSE:
		peer_hang_up(&f->m.control);
		return;
	case FAULT_FLOOD:
		for (int i = 0; i < 20000; i++)
			buf_str(out, "X-Noise: this header says nothing and never ends\r\n");
		return;
	case FAULT_TWICE:
		buf_add(out, answer, n);
		break;
	case FAULT_NONE:
	case FAULT_EXIT:
	case FAULT_NOSOCKET:
	case FAULT_REFUSE:
	case FAULT_DEAF:
	case FAULT_LATE:
	case FAULT_AGENT_GARBAGE:
	case FAULT_AGENT_HALF:
	case FAULT_AGENT_FLOOD:
	case FAULT_AGENT_ERROR:
	case FAULT_NOPOWER:
	case FAULT_PANIC:
	case FAULT_CONSOLE:
	case FAULT_ORDER:
	case FAULT_LOST:
	case FAULT_RESET:
	case FAULT_NOISE:
	case FAULT_NOSAVE:
	case FAULT_BIGSAVE:
	case FAULT_CUTSAVE:
	case FAULT_BADSAVE:
	case FAULT_BADLOAD:
	case FAULT_BADSTOP:
	case FAULT_WRITES:
		break;
	}
	buf_add(out, answer, n);
}

static void answer(struct fc *f, unsigned status, const char *body)
{
	auto_free char *text =
		status == 204
			? xprintf("HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: "
				  "keep-alive\r\n\r\n")
			: xprintf("HTTP/1.1 %u \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"
				  "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
				  status, strlen(body), body);

	/* Wrong order: each call gets what the one before should have got. */
	say(f, f->m.fault == FAULT_ORDER && f->last[0] ? f->last : text);
	fcm_copy(f->last, sizeof f->last, text);
}

static void done(struct fc *f)
{
	answer(f, 204, "");
}

static void refuse(struct fc *f, const char *fault)
{
	auto_free char *body = xprintf("{\"fault_message\":\"%s\"}", fault);

	answer(f, 400, body);
}

/* ---- calls ---- */

/* The value of "key":"value" in a body that our driver wrote; this is no JSON parser. */
static bool text_of(const char *body, const char *key, char *ret, size_t size)
{
	auto_free char *want = xprintf("\"%s\"", key);
	const char *s = strstr(body, want);

	s = s ? strchr(s + strlen(want), '"') : NULL;
	return s && fcm_format(ret, size, "%.*s", (int)strcspn(s + 1, "\""), s + 1);
}

static bool id_matches(const struct request *rq, const char *key)
{
	char id[64];

	return text_of(rq->body, key, id, sizeof id) && strcmp(id, strrchr(rq->path, '/') + 1) == 0;
}

static bool exists(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0;
}

static void boot_source(struct fc *f, const struct request *rq)
{
	char path[256], args[2048] = "";

	if (!text_of(rq->body, "kernel_image_path", path, sizeof path) || !exists(path)) {
		refuse(f, "Boot source error: The kernel file cannot be opened: No such file or directory "
			  "(os error 2)");
		return;
	}
	f->kernel = true;
	if (text_of(rq->body, "boot_args", args, sizeof args))
		fault_set_of_line(&f->m, args);
	done(f);
}

static void drive(struct fc *f, const struct request *rq)
{
	char path[256];

	if (!id_matches(rq, "drive_id")) {
		refuse(f, "The id from the path does not match the id from the body!");
	} else if (!text_of(rq->body, "path_on_host", path, sizeof path) || !exists(path)) {
		auto_free char *why = xprintf(
			"Drive config error: Unable to create the virtio block device: Virtio backend "
			"error: Error manipulating the backing file: No such file or directory (os error 2) "
			"%s",
			path);
		refuse(f, why);
	} else {
		done(f);
	}
}

static void machine_config(struct fc *f, const struct request *rq)
{
	const char *s = strstr(rq->body, "\"mem_size_mib\":");

	f->mem_mib = s ? (unsigned)strtoul(s + 15, NULL, 10) : 0;
	done(f);
}

#define IN_USE "Error binding to the host-side Unix socket: Address in use (os error 98)"

static void vsock(struct fc *f, const struct request *rq)
{
	if (!text_of(rq->body, "uds_path", f->uds, sizeof f->uds) || exists(f->uds)) {
		refuse(f, "Vsock config error: Cannot create backend for vsock device: " IN_USE);
		return;
	}
	f->m.agent.listen_fd = machine_listen(f->uds);
	done(f);
}

static void action(struct fc *f, const struct request *rq)
{
	char type[64] = "";

	text_of(rq->body, "action_type", type, sizeof type);
	if (strcmp(type, "InstanceStart") == 0) {
		if (f->started) {
			refuse(f, AFTER);
		} else if (!f->kernel) {
			refuse(f, "Start microvm error: Cannot start microvm without kernel configuration.");
		} else {
			f->started = true;
			machine_boot(&f->m);
			done(f);
		}
	} else if (strcmp(type, "SendCtrlAltDel") == 0 || strcmp(type, "FlushMetrics") == 0) {
		if (!f->started) {
			refuse(f, BEFORE);
			return;
		}
		f->m.ended = type[0] == 'S' && f->m.running && f->m.fault != FAULT_NOPOWER;
		done(f);
	} else {
		auto_free char *why = xprintf(
			"An error occurred when deserializing the json body of a request: unknown variant "
			"`%s`, expected one of `FlushMetrics`, `InstanceStart`, `SendCtrlAltDel` at line 1 "
			"column %zu.",
			type, strcspn(rq->body, "}"));
		refuse(f, why);
	}
}

static void patch_vm(struct fc *f, const struct request *rq)
{
	char state[32] = "";

	text_of(rq->body, "state", state, sizeof state);
	if (!f->started) {
		refuse(f, BEFORE);
		return;
	}
	f->m.running = strcmp(state, "Resumed") == 0;
	done(f);
}

/* ---- saved machines ---- */

static bool write_state(const struct fc *f, const char *path)
{
	_cleanup_(buf_done) struct buf text = {0};
	auto_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	buf_printf(&text, "%u %s ", f->mem_mib, f->uds);
	machine_save(&f->m, &text);
	return fd >= 0 && fd_write_all(fd, text.p, text.n) == 0;
}

/* Zeros, and in the middle something that isn't. */
static bool write_memory(const struct fc *f, const char *path)
{
	static const char page[4096];
	off_t size = (off_t)f->mem_mib << 20;

	if (f->m.fault == FAULT_BADSAVE)
		return symlink("/rootfs.img", path) == 0;
	if (f->m.fault == FAULT_BIGSAVE)
		size += (off_t)sizeof page;
	if (f->m.fault == FAULT_CUTSAVE)
		size /= 2;
	auto_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	return fd >= 0 && ftruncate(fd, size) == 0 && pwrite(fd, page, sizeof page, 0) > 0 &&
	       pwrite(fd, f->m.boot_id, sizeof f->m.boot_id, size / 2) > 0;
}

static void create_snapshot(struct fc *f, const struct request *rq)
{
	char state[128] = "", memory[128] = "";

	if (!f->started) {
		refuse(f, BEFORE);
		return;
	}
	if (f->m.running) {
		refuse(f, "Create snapshot error: Cannot save the microVM state: Operation not allowed: "
			  "save/restore unavailable while running");
		return;
	}
	f->voided = true;
	peer_hang_up(&f->m.agent);
	text_of(rq->body, "snapshot_path", state, sizeof state);
	text_of(rq->body, "mem_file_path", memory, sizeof memory);
	if (f->m.fault == FAULT_NOSAVE || (write_state(f, state) && write_memory(f, memory))) {
		done(f);
		return;
	}
	auto_free char *why =
		xprintf("Create snapshot error: Cannot perform %s on the %s backing file: %s (os error %d)",
			errno == ENOSPC ? "dump" : "open", exists(state) ? "memory" : "snapshot",
			strerror(errno), errno);
	refuse(f, why);
}

/* NULL, or why it can't be loaded. */
static const char *load(struct fc *f, const char *state, const char *memory)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error err;
	struct stat st;
	int end = 0;

	if (file_read(AT_FDCWD, state, 4096, &text, &err) < 0)
		return "Failed to get snapshot state from file: Failed to open snapshot file: No such file "
		       "or directory (os error 2)";
	if (sscanf(text.p, "%u %107s %n", &f->mem_mib, f->uds, &end) != 2 ||
		!machine_load(&f->m, text.p + end, text.n - (size_t)end))
		return "Failed to get snapshot state from file: Failed to load snapshot state from file: "
		       "CRC64 validation failed: 7748207593519049263";
	if (stat(memory, &st) < 0 || access(memory, R_OK) < 0)
		return "Failed to load guest memory: Error creating guest memory from file: Failed to load "
		       "guest memory: No such file or directory (os error 2)";
	if (st.st_size < (off_t)f->mem_mib << 20)
		return "Failed to load guest memory: Error creating guest memory from file: Failed to "
		       "restore guest memory: Cannot create mmap region: The specified file offset and "
		       "length is greater then file length";
	if (exists(f->uds))
		return "Failed to build microVM from snapshot: Failed to restore MMIO device: Cannot restore "
		       "devices: VsockUnixBackend: " IN_USE;
	return NULL;
}

static void load_snapshot(struct fc *f, const struct request *rq)
{
	char state[128] = "", memory[128] = "";

	if (f->kernel) {
		refuse(f, "Load snapshot error: Loading a microVM snapshot not allowed after configuring "
			  "boot-specific resources.");
		return;
	}
	text_of(rq->body, "snapshot_path", state, sizeof state);
	text_of(rq->body, "backend_path", memory, sizeof memory);
	const char *why = load(f, state, memory);
	f->m.ended = why || f->m.fault == FAULT_BADLOAD;
	f->m.status = f->m.ended;
	if (why) {
		auto_free char *text =
			xprintf("Load snapshot error: Failed to restore from snapshot: %s", why);
		refuse(f, text);
		return;
	}
	f->started = f->voided = true;
	f->m.agent.listen_fd = machine_listen(f->uds);
	done(f);
}

static void describe(struct fc *f)
{
	const char *state = f->m.running ? "Running" : f->started ? "Paused" : "Not started";
	auto_free char *body =
		xprintf("{\"id\":\"%s\",\"state\":\"%s\",\"vmm_version\":\"1.12.1\",\"app_name\":"
			"\"Firecracker\"}",
			f->id, state);

	answer(f, 200, body);
}

static bool is_put(const struct request *rq, const char *path)
{
	return strcmp(rq->method, "PUT") == 0 &&
	       (strcmp(rq->path, path) == 0 ||
		       (path[strlen(path) - 1] == '/' && strncmp(rq->path, path, strlen(path)) == 0));
}

static void put(struct fc *f, const struct request *rq)
{
	if (is_put(rq, "/actions"))
		action(f, rq);
	else if (is_put(rq, "/snapshot/create"))
		create_snapshot(f, rq);
	else if (f->started)
		refuse(f, AFTER);
	else if (is_put(rq, "/snapshot/load"))
		load_snapshot(f, rq);
	else if (is_put(rq, "/machine-config"))
		machine_config(f, rq);
	else if (is_put(rq, "/boot-source"))
		boot_source(f, rq);
	else if (is_put(rq, "/drives/"))
		drive(f, rq);
	else if (is_put(rq, "/vsock"))
		vsock(f, rq);
	else
		done(f);
}

static void serve(struct fc *f, const struct request *rq)
{
	static const char *const known[] = {"/actions", "/boot-source", "/drives/", "/vsock",
		"/machine-config", "/network-interfaces/", "/entropy", "/snapshot/"};
	bool is_known = false;

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		is_known = is_known || is_put(rq, known[i]);
	if (is_put(rq, "/snapshot/"))
		machine_saves(&f->m);
	if (f->m.fault == FAULT_REFUSE && strcmp(rq->path, "/") != 0)
		refuse(f, "not in this \\u001b[5mstate\\nnor in any");
	else if (strcmp(rq->method, "POST") == 0 || strcmp(rq->method, "DELETE") == 0)
		answer(f, 400,
			"{ \"error\": \"Invalid HTTP Method: Unsupported HTTP method.\nAll previous "
			"unanswered requests "
			"will be dropped.\" }");
	else if (strcmp(rq->method, "GET") == 0 && strcmp(rq->path, "/") == 0)
		describe(f);
	else if (strcmp(rq->method, "GET") == 0 && strcmp(rq->path, "/version") == 0)
		answer(f, 200, "{\"firecracker_version\":\"1.12.1\"}");
	else if (strcmp(rq->method, "PATCH") == 0 && strcmp(rq->path, "/vm") == 0)
		patch_vm(f, rq);
	else if (is_known && *rq->body == '\0')
		refuse(f, "Empty PUT request.");
	else if (is_known)
		put(f, rq);
	else {
		auto_free char *why =
			xprintf("Invalid request method and/or path: %s %s.", rq->method, rq->path + 1);
		refuse(f, why);
	}
}

/* A whole request at the beginning of what was read? */
static void take_request(struct fc *f)
{
	struct buf *in = &f->m.control.in;
	const char *end = in->n ? memmem(in->p, in->n, "\r\n\r\n", 4) : NULL;
	struct request rq;

	if (end == NULL)
		return;
	const char *length = strcasestr(in->p, "Content-Length:");
	size_t head = (size_t)(end - in->p) + 4;
	size_t body = length && length < end ? MIN(strtoul(length + 15, NULL, 10), (size_t)BODY_MAX) : 0;
	if (in->n < head + body || sscanf(in->p, "%7s %127s", rq.method, rq.path) != 2)
		return;
	auto_free char *text = strndup(in->p + head, body);
	rq.body = text;
	buf_drop(in, head + body);
	machine_called(&f->m);
	serve(f, &rq);
}

/* ---- the agent ---- */

static void take_agent(struct fc *f)
{
	struct peer *a = &f->m.agent;
	char *nl = a->in.n && !f->linked ? memchr(a->in.p, '\n', a->in.n) : NULL;

	if (nl) {
		bool good = strncmp(a->in.p, "CONNECT 52\n", 11) == 0;
		buf_drop(&a->in, (size_t)(nl - a->in.p) + 1);
		f->connects++;
		if (f->m.fault == FAULT_LOST && f->connects == 2)
			return;
		if (!good || (f->m.fault == FAULT_LOST && f->connects == 1)) {
			peer_hang_up(a);
			return;
		}
		buf_str(&a->out, f->m.fault == FAULT_NOISE ? "KO 1073741824\n" : "OK 1073741824\n");
		f->linked = true;
		f->linked_void = f->voided;
		f->voided = false;
	}
	if (f->linked && f->linked_void && a->in.n)
		peer_hang_up(a);
	else if (f->linked && a->in.n)
		agent_input(&f->m);
}

static bool agent_listens(const struct machine *m)
{
	return m->running && clock_ms() - m->booted_ms >= MARKER_MS;
}

static void step_agent(struct fc *f, bool ready)
{
	struct peer *a = &f->m.agent;

	if (ready && peer_accept(a))
		f->linked = false;
	else if (ready && peer_receive(a))
		take_agent(f);
	peer_send(a);
}

static void step(struct fc *f)
{
	struct peer *c = &f->m.control, *a = &f->m.agent;
	bool listens = agent_listens(&f->m);
	struct pollfd p[] = {
		{c->fd < 0 ? c->listen_fd : c->fd, (short)(POLLIN | (c->out.n ? POLLOUT : 0)), 0},
		{!listens	    ? -1
			: a->fd < 0 ? a->listen_fd
				    : a->fd,
			(short)(POLLIN | (a->out.n ? POLLOUT : 0)), 0},
	};

	if (poll(p, 2, f->m.running && !listens ? MARKER_MS : -1) < 0)
		return;
	if (p[0].revents && !peer_accept(c) && (p[0].revents & (POLLIN | POLLHUP)) && peer_receive(c))
		take_request(f);
	peer_send(c);
	step_agent(f, (p[1].revents & (POLLIN | POLLHUP)) != 0);
}

static void read_options(int argc, char **argv, struct fc *f)
{
	const char *socket = "/run/firecracker.socket";

	for (int i = 1; i + 1 < argc; i++) {
		if (strcmp(argv[i], "--api-sock") == 0)
			socket = argv[i + 1];
		if (strcmp(argv[i], "--id") == 0)
			fcm_copy(f->id, sizeof f->id, argv[i + 1]);
	}
	fault_set(&f->m, f->id, strlen(f->id));
	if (f->m.fault == FAULT_EXIT) {
		fprintf(stderr, "fake-firecracker: could not set the seccomp filters\n");
		exit(1);
	}
	if (f->m.fault == FAULT_NOSOCKET)
		clock_sleep(INT64_MAX / 2);
	if (exists(socket)) {
		fprintf(stderr, "fake-firecracker: failed to open the API socket at %s\n", socket);
		exit(1);
	}
	f->m.control.listen_fd = machine_listen(socket);
}

int main(int argc, char **argv)
{
	struct fc f = {.m = {.control = NO_PEER, .agent = NO_PEER}};

	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		puts("Firecracker v1.12.1\n");
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "--faults") == 0) {
		fault_list();
		return 0;
	}
	machine_boot_id(f.m.boot_id);
	read_options(argc, argv, &f);
	while (!(f.m.ended && f.m.agent.out.n == 0 && f.m.control.out.n == 0))
		step(&f);
	return f.m.status;
}
