/*
 * fcmd: the daemon. Reads its config, takes what must be its own (ports, the state directory), brings the
 * engine up, serves the API, and runs the event loop until SIGTERM. VMs run on when it ends.
 */
#include <argp.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/config.h"
#include "common/core/clock.h"
#include "common/core/log.h"
#include "common/crypt.h"
#include "daemon/check.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/site.h"
#include "daemon/http/http.h"
#include "daemon/image/image.h"
#include "daemon/loop.h"
#include "daemon/net/net.h"
#include "daemon/notify.h"
#include "daemon/park.h"
#include "daemon/proc/cgroup.h"
#include "daemon/store/token.h"

enum { STOP_MS = 30000, NOFILE = 65536 };

enum what { SERVE, PRINT_CONFIG, EXAMPLE_CONFIG, CHECK, CHECK_JSON, PARK, TEARDOWN, LIST_STEPS };

struct options {
	enum what what;
	const char *file;
	struct strv set; /* "key=value" */
};

static const struct argp_option options[] = {
	{"config", 'c', "FILE", 0, "Read FILE instead of " CONFIG_FILE, 0},
	{"set", 's', "KEY=VALUE", 0, "Set one key of the config, over the file", 0},
	{"print-config", 'p', NULL, 0, "Print every key, its value and where that came from", 0},
	{"example-config", 'e', NULL, 0, "Print a config file of all keys, their defaults and what they mean",
		0},
	{"check", 'k', "json", OPTION_ARG_OPTIONAL,
		"Check this host, and say how to mend what is wrong; without root as far as that goes", 0},
	{"park", 'P', NULL, 0,
		"Ask the daemon that runs to stop all VMs until its next start, as when the host goes down",
		0},
	{"teardown", 't', NULL, 0,
		"Take down the host's side of the network, for uninstalling: no VM may run", 0},
	{"list-steps", 'l', NULL, 0, "Print the steps of every operation", 0},
	{0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case 'c':
		o->file = arg;
		return 0;
	case 's':
		strv_add(&o->set, arg);
		return 0;
	case 'p':
		o->what = PRINT_CONFIG;
		return 0;
	case 'e':
		o->what = EXAMPLE_CONFIG;
		return 0;
	case 'k':
		o->what = arg ? CHECK_JSON : CHECK;
		if (arg && strcmp(arg, "json") != 0)
			argp_error(state, "--check takes nothing but json");
		return 0;
	case 'P':
		o->what = PARK;
		return 0;
	case 't':
		o->what = TEARDOWN;
		return 0;
	case 'l':
		o->what = LIST_STEPS;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int fail(const struct fcm_error *err)
{
	fprintf(stderr, "fcmd: %s\n", err->msg);
	if (err->hint[0])
		fprintf(stderr, "      %s\n", err->hint);
	return fcm_code_info(err->code)->exit_status;
}

/* ---- signals ---- */

static struct loop *main_loop;
static int64_t stop_deadline;

/* The loop runs until the last operation has ended: they hear from their guests by it. */
static void *stop_thread(void *arg)
{
	(void)arg;
	stop_deadline = clock_in(STOP_MS);
	http_stop(stop_deadline);
	engine_drain(stop_deadline);
	loop_stop(main_loop);
	return NULL;
}

static void on_signal(void *arg, uint32_t events)
{
	struct signalfd_siginfo si;
	int fd = *(int *)arg;
	static bool stopping;
	pthread_t thread;

	(void)events;
	if (read(fd, &si, sizeof si) != sizeof si || stopping)
		return;
	log_info("%s: stopping; VMs run on", strsignal((int)si.ssi_signo));
	notify_send("STOPPING=1");
	stopping = true;
	if (pthread_create(&thread, NULL, stop_thread, NULL) == 0)
		pthread_detach(thread);
	else
		stop_thread(NULL);
}

/* Signals that end the daemon come through the loop; blocked before any thread starts. */
static int block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	signal(SIGPIPE, SIG_IGN);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void limits(void)
{
	struct rlimit files = {NOFILE, NOFILE}, core = {0, 0};

	/* without the capability: what may be had */
	if (setrlimit(RLIMIT_NOFILE, &files) < 0 && getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	setrlimit(RLIMIT_CORE, &core); /* keys and tokens are in our memory */
	prctl(PR_SET_DUMPABLE, 0);
}

/* Threads come and go: by default each of them may get an arena of its own, up to eight a core, and the memory that is kept
 * on top of one grows with the largest block that was ever freed (mallopt(3)). */
static void thrifty_malloc(void)
{
	mallopt(M_ARENA_MAX, 2);
	mallopt(M_TRIM_THRESHOLD, 128 << 10);
}

/* ---- serving ---- */

static struct vm *resolve(const char *text, bool exact, const struct token_info *token, struct fcm_error *err)
{
	return registry_find(text, exact, *token->vms ? token->vms : NULL, err);
}

static const char *id_of(const struct vm *vm)
{
	return vm->id.s;
}

static int listen_for(const struct fcmd_config *c, struct fcm_error *err)
{
	const struct http_config http = {
		.listen = c->listen,
		.socket_path = c->socket,
		.socket_group = c->socket_group,
		.proxy_path = c->api_domain[0] ? c->proxy_socket : "",
		.allowed_hosts = c->allowed_hosts,
		.max_connections = c->max_connections,
		.max_anonymous = c->max_anonymous,
		.header_seconds = c->header_seconds,
		.resolve = resolve,
		.release = vm_unref,
		.vm_id = id_of,
	};

	return http_init(&http, err);
}

/* In this order: what tells that another daemon is there comes before anything is touched. */
static int start(const struct fcmd_config *c, struct fcm_error *err)
{
	if (listen_for(c, err) < 0 || store_init(c->state_dir, c->run_dir, err) < 0)
		return -1;
	if (token_init(store_dirfd(), err) < 0 || image_init(c->state_dir, err) < 0)
		return -1;
	cgroup_init("fcm");
	if (engine_init(c, main_loop, err) < 0)
		return -1;
	if (*site_api_domain())
		http_allow_host(site_api_domain());
	return http_serve(err);
}

static int serve(const struct fcmd_config *c)
{
	struct fcm_error err;
	struct loop_source *signals;
	int sfd = block_signals();

	notify_init();
	limits();
	thrifty_malloc();
	crypt_init();
	if (loop_new(&main_loop, &err) < 0 ||
		loop_add(main_loop, sfd, EPOLLIN, on_signal, &sfd, &signals, &err) < 0 ||
		notify_watchdog(main_loop, &err) < 0 || start(c, &err) < 0)
		return fail(&err);
	log_info("fcmd " FCM_VERSION " serves %s and %s", c->listen, c->socket);
	if (config_listens_abroad(c))
		log_warn("insecure_bind: what others say at %s, tokens included, can be read on the way",
			c->listen);
	notify_send("READY=1");
	int rc = loop_run(main_loop, &err);

	int status = rc < 0 ? fail(&err) : 0;
	if (rc < 0)
		stop_thread(NULL);
	/* else threads go on until the very end, and nothing that they use may be freed */
	if (!engine_stop(stop_deadline))
		_exit(status);
	store_done();
	return status;
}

static int list_steps(void)
{
	struct strv lines = {0};

	steps_list(&lines);
	for (size_t i = 0; i < lines.n; i++)
		puts(lines.v[i]);
	strv_done(&lines);
	return 0;
}

static int print_config(const struct fcmd_config *c)
{
	_cleanup_(buf_done) struct buf text = {0};

	config_print(c, &text);
	fputs(text.p, stdout);
	return 0;
}

static int print_example(void)
{
	_cleanup_(buf_done) struct buf text = {0};

	config_document(&text);
	fputs(text.p, stdout);
	return 0;
}

static int park(const struct fcmd_config *c)
{
	auto_free char *answer = NULL;
	struct fcm_error err;

	if (park_ask(c->socket, &answer, &err) < 0)
		return fail(&err);
	puts(answer);
	return 0;
}

static int check(const struct fcmd_config *c, bool json)
{
	if (geteuid() == 0)
		cgroup_init("fcm");
	if (!json)
		return check_print(c) == CHECK_FAIL ? 1 : 0;
	auto_json field_json *list = check_json(c, false);
	auto_free char *text = fj_print(list, false);
	puts(text);
	return 0;
}

/* net_down() knows what net_init() made, so that comes first: it does nothing where all is as the last daemon left it. */
static int teardown(const struct fcmd_config *c)
{
	const struct net_config net = {.pool = c->pool, .gateway = c->gateway};
	struct fcm_error err;

	if (store_init(c->state_dir, c->run_dir, &err) < 0)
		return fail(&err);
	int rc = net_init(&net, c->state_dir, NULL, 0, &err) < 0 || net_down(&err) < 0 ? fail(&err) : 0;
	store_done();
	return rc;
}

static int read_config(const struct options *o, struct fcmd_config *c, struct fcm_error *err)
{
	config_init(c);
	if (config_load(c, o->file ? o->file : CONFIG_FILE, o->file != NULL, err) < 0)
		return -1;
	for (size_t i = 0; i < o->set.n; i++)
		if (config_set(c, o->set.v[i], err) < 0)
			return -1;
	return config_check(c, err);
}

static bool needs_root(enum what what)
{
	switch (what) {
	case SERVE:
	case TEARDOWN:
		return true;
	case CHECK:
	case CHECK_JSON:
	case PRINT_CONFIG:
	case EXAMPLE_CONFIG:
	case PARK:
	case LIST_STEPS:
		break;
	}
	return false;
}

/* Said once and plainly: else it would be a permission that is missing somewhere. */
static int fail_not_root(void)
{
	struct fcm_error err;

	fcm_fail(&err, FCM_FORBIDDEN, "only root may do that");
	fcm_hint(&err, "put sudo before it");
	return fail(&err);
}

static int act(const struct options *o, const struct fcmd_config *c)
{
	if (needs_root(o->what) && geteuid() != 0)
		return fail_not_root();
	switch (o->what) {
	case SERVE:
		return serve(c);
	case PRINT_CONFIG:
		return print_config(c);
	case EXAMPLE_CONFIG:
		return print_example();
	case PARK:
		return park(c);
	case TEARDOWN:
		return teardown(c);
	case CHECK:
	case CHECK_JSON:
		return check(c, o->what == CHECK_JSON);
	case LIST_STEPS:
		return list_steps();
	}
	return 0;
}

int main(int argc, char **argv)
{
	static const struct argp argp = {options, parse, NULL,
		"fcmd -- the daemon that owns the microVMs of this host", NULL, NULL, NULL};
	struct options o = {.what = SERVE};
	struct fcmd_config config;
	struct fcm_error err;

	argp_program_version = "fcmd " FCM_VERSION;
	argp_err_exit_status = fcm_code_info(FCM_USAGE)->exit_status;
	argp_parse(&argp, argc, argv, 0, NULL, &o);
	int status;
	if (read_config(&o, &config, &err) == 0) {
		log_set_level(config_log_level(&config));
		status = act(&o, &config);
	} else {
		status = fail(&err);
	}
	config_done(&config);
	strv_done(&o.set);
	return status;
}
