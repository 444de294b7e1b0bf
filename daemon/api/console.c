/*
 * The console: after 101 the connection is what the shim's attach socket gives (the last screens of this run, then what
 * comes) and takes.
 *
 * Many may watch, one types: of those who ask, the one that came first and is still there. So there is no state to hand
 * on, only a list in the order of arrival. Who must wait is told so in the stream, and told again when it is their turn.
 * It is this daemon that keeps the order, since nobody else can reach the socket; to the shim all are alike.
 */
#include <pthread.h>
#include <string.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "daemon/api/api.h"
#include "daemon/relay.h"
#include "daemon/shim/plan.h"
#include "daemon/vmm/socket.h"

enum { CONNECT_MS = 2000 };

enum input { INPUT_WAIT, INPUT_NOW, INPUT_NO };

struct console {
	struct console *next; /* came later */
	struct vm *vm;	      /* held */
	int fd;		      /* to the shim, or -1 */
	enum input input;
	bool told_to_wait;
	char who[64]; /* the token's name */
};

/* All that are attached, to whichever VM. The lock is a leaf. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct console *first;

/* Call with the lock held. */
static const struct console *who_types(const struct vm *vm)
{
	for (const struct console *c = first; c; c = c->next)
		if (c->vm == vm && c->input != INPUT_NO)
			return c;
	return NULL;
}

static int enter_locked(struct console *c, struct fcm_error *err)
{
	const struct console *types = c->input == INPUT_NOW ? who_types(c->vm) : NULL;
	struct console **end = &first;
	size_t n = 0;

	if (types) {
		fcm_fail(err, FCM_BUSY, "'%s' types at the console of '%s'", types->who, c->vm->view.name);
		return fcm_hint(
			err, "without input one can watch: fcm console --read-only %s", c->vm->view.name);
	}
	for (; *end; end = &(*end)->next)
		n += (*end)->vm == c->vm;
	if (n >= SHIM_READERS) {
		fcm_fail(err, FCM_BUSY, "%d are at the console of '%s' already", SHIM_READERS,
			c->vm->view.name);
		return fcm_hint(err, "wait until one of them leaves, or: fcm logs -f %s", c->vm->view.name);
	}
	*end = c;
	return 0;
}

static int enter(struct console *c, struct fcm_error *err)
{
	pthread_mutex_lock(&lock);
	int r = enter_locked(c, err);
	pthread_mutex_unlock(&lock);
	return r;
}

static void leave(struct console *c)
{
	pthread_mutex_lock(&lock);
	for (struct console **p = &first; *p; p = &(*p)->next)
		if (*p == c) {
			*p = c->next;
			break;
		}
	pthread_mutex_unlock(&lock);
}

static bool may_send(void *arg, struct buf *note)
{
	struct console *c = arg;

	if (c->input == INPUT_NO)
		return false;
	pthread_mutex_lock(&lock);
	const struct console *types = who_types(c->vm);
	bool yes = types == c;
	if (note && yes && c->told_to_wait)
		buf_str(note, "\r\n[fcm: you can type now]\r\n");
	else if (note && !yes && !c->told_to_wait)
		buf_printf(note, "\r\n[fcm: '%s' types here, you only watch]\r\n", types->who);
	if (note)
		c->told_to_wait = !yes;
	pthread_mutex_unlock(&lock);
	return yes;
}

static void console_free(struct console *c)
{
	leave(c);
	fcm_closep(&c->fd);
	vm_unref(c->vm);
	free(c);
}

static bool goes_on(void *arg)
{
	struct console *c = arg;

	return api_vm_up(c->vm);
}

/* `client` is -1 when the client left before the switch of protocols. */
static void run_console(void *arg, int client, const void *extra, size_t n)
{
	struct console *c = arg;
	/* a client on TCP that has left looks as one that only sends no more: it must not keep others from typing */
	struct relay r = {.client = client,
		.guest = c->fd,
		.stop_fd = http_stop_fd(),
		.goes_on = goes_on,
		.may_send = may_send,
		.arg = c,
		.no_half = true};

	if (client >= 0)
		relay_run(&r, extra, n);
	console_free(c);
}

static int parse_input(const struct request *rq, enum input *ret, struct fcm_error *err)
{
	static const char *const words[] = {[INPUT_WAIT] = "wait", [INPUT_NOW] = "now", [INPUT_NO] = "no"};
	const char *s = http_query(rq, "input");

	for (size_t i = 0; s && i < ARRAY_SIZE(words); i++)
		if (strcmp(s, words[i]) == 0) {
			*ret = (enum input)i;
			return 0;
		}
	return s ? fcm_fail_field(err, FCM_INVALID, "input", "input: not one of wait, now, no") : 0;
}

static int attach(struct console *c, struct fcm_error *err)
{
	auto_close int run = dir_open(registry_dirfd(c->vm), "jail/run", err);

	if (run < 0 || enter(c, err) < 0)
		return -1;
	c->fd = vmm_connect(run, VMM_CONSOLE, clock_in(CONNECT_MS), err);
	return c->fd < 0 ? fcm_wrap(err, "console of '%s'", c->vm->view.name) : 0;
}

int api_vm_console(struct request *rq, struct fcm_error *err)
{
	struct vm *vm = http_vm(rq);
	enum input input = INPUT_WAIT;

	if (parse_input(rq, &input, err) < 0 || api_vm_runs(vm, err) < 0)
		return -1;
	struct console *c = xalloc(sizeof *c);
	*c = (struct console){.vm = vm_ref(vm), .fd = -1, .input = input};
	fcm_copy(c->who, sizeof c->who, http_token(rq)->name);
	if (attach(c, err) < 0) {
		console_free(c);
		return -1;
	}
	return http_upgrade(rq, "fcm-console", run_console, c);
}
