/*
 * Drives daemon/net from a test: commands on stdin, one line each; the answer is zero or more lines "= text" and then
 * "ok" or "error CODE [FIELD] MESSAGE (HINT)". What net_watch() reports comes in between as "event TEXT".
 *
 *	init POOL GATEWAY STATE_DIR [PUBLIC_IP|- [ID IP]...]
 *	watch | down | list | public-ip | resolvers | is-own IP
 *	filter-up ID IP UID | filter-down ID IP | tap-up ID IP UID | tap-down ID | up ID IP UID | vm-down ID IP
 *	describe ID IP UID | sites 0|1 | open ID | close | cycle COUNT | hammer THREADS ROUNDS
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "daemon/loop.h"
#include "daemon/net/link.h"
#include "daemon/net/net.h"

enum { WORDS = 64 };

static struct loop *loop;
static int tap_fd = -1;

static struct net_vm vm_of(char **w)
{
	struct net_vm vm = {0};

	fcm_copy(vm.id.s, sizeof vm.id.s, w[1]);
	if (w[2])
		inet_pton(AF_INET, w[2], &vm.ip);
	vm.uid = w[2] && w[3] ? (uid_t)atoi(w[3]) : 0;
	return vm;
}

static void say_all(struct strv *l)
{
	for (size_t i = 0; i < l->n; i++)
		printf("= %s\n", l->v[i]);
	strv_done(l);
}

static int do_init(char **w, struct fcm_error *err)
{
	struct net_config config = {0};
	struct net_vm vms[WORDS / 2];
	size_t n = 0;

	if (!ip_net_parse(w[1], &config.pool))
		return fcm_fail(err, FCM_USAGE, "pool");
	inet_pton(AF_INET, w[2], &config.gateway);
	if (w[4] && strcmp(w[4], "-") != 0)
		inet_pton(AF_INET, w[4], &config.public_ip);
	for (char **p = w[4] ? w + 5 : w + 4; p[0] && p[1]; p += 2) {
		vms[n] = (struct net_vm){0};
		fcm_copy(vms[n].id.s, sizeof vms[n].id.s, p[0]);
		inet_pton(AF_INET, p[1], &vms[n++].ip);
	}
	return net_init(&config, w[3], vms, n, err);
}

static void on_change(void *arg, const char *what)
{
	(void)arg;
	printf("event %s\n", what);
}

static int do_watch(char **w, struct fcm_error *err)
{
	const struct net_events events = {.changed = on_change};

	(void)w;
	return net_watch(loop, &events, err);
}

static int do_down(char **w, struct fcm_error *err)
{
	(void)w;
	return net_down(err);
}

static int do_filter_up(char **w, struct fcm_error *err)
{
	struct net_vm vm = vm_of(w);

	return net_filter_up(&vm, err);
}

static int do_filter_down(char **w, struct fcm_error *err)
{
	struct net_vm vm = vm_of(w);
	unsigned n = 0;
	int r = net_filter_down(&vm, &n, err);

	printf("= %u\n", n);
	return r;
}

static int do_tap_up(char **w, struct fcm_error *err)
{
	struct net_vm vm = vm_of(w);

	return net_tap_up(&vm, err);
}

static int do_tap_down(char **w, struct fcm_error *err)
{
	struct net_vm vm = vm_of(w);
	bool existed = false;
	int r = net_tap_down(&vm, &existed, err);

	printf("= %d\n", existed);
	return r;
}

static int do_up(char **w, struct fcm_error *err)
{
	struct net_vm vm = vm_of(w);

	return net_filter_up(&vm, err) < 0 ? -1 : net_tap_up(&vm, err);
}

static int do_vm_down(char **w, struct fcm_error *err)
{
	struct net_vm vm = vm_of(w);

	return net_tap_down(&vm, NULL, err) < 0 ? -1 : net_filter_down(&vm, NULL, err);
}

static int do_describe(char **w, struct fcm_error *err)
{
	struct net_vm vm = vm_of(w);
	struct strv l = {0};

	(void)err;
	net_describe_filter(&vm, &l);
	net_describe_tap(&vm, &l);
	say_all(&l);
	return 0;
}

static int do_list(char **w, struct fcm_error *err)
{
	struct strv l = {0};
	int r = net_list_taps(&l, err);

	(void)w;
	say_all(&l);
	return r;
}

static int do_sites(char **w, struct fcm_error *err)
{
	return net_sites(w[1][0] == '1', err);
}

static int do_public_ip(char **w, struct fcm_error *err)
{
	struct in_addr ip;
	bool public = net_public_ip(&ip);

	(void)w;
	(void)err;
	printf("= %s %d\n", ip_dotted(ip).s, public);
	return 0;
}

static int do_resolvers(char **w, struct fcm_error *err)
{
	struct strv l = {0};

	(void)w;
	(void)err;
	net_resolvers(&l);
	say_all(&l);
	return 0;
}

static int do_is_own(char **w, struct fcm_error *err)
{
	struct in_addr ip;

	if (inet_pton(AF_INET, w[1], &ip) != 1)
		return fcm_fail(err, FCM_INVALID, "no address");
	printf("= %d\n", link_has_address(ip));
	return 0;
}

static int do_open(char **w, struct fcm_error *err)
{
	struct net_vm vm = vm_of(w);

	fcm_closep(&tap_fd);
	tap_fd = net_tap_open(&vm.id, err);
	if (tap_fd >= 0)
		printf("= cloexec %d\n", fcntl(tap_fd, F_GETFD) & FD_CLOEXEC);
	return tap_fd < 0 ? -1 : 0;
}

static int do_close(char **w, struct fcm_error *err)
{
	(void)w;
	(void)err;
	fcm_closep(&tap_fd);
	return 0;
}

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *v, int n)
{
	qsort(v, (size_t)n, sizeof *v, by_value);
	return v[n / 2];
}

/* COUNT times up and down of one VM: medians of each half. */
static int do_cycle(char **w, struct fcm_error *err)
{
	enum { MAX = 1000 };
	int count = MIN(atoi(w[1]), MAX);
	double t[5], v[4][MAX];
	struct net_vm vm = {.id = {"zzzzzzzz"}, .ip.s_addr = htonl(0xac10fffe)};

	for (int i = 0; i < count; i++) {
		t[0] = now_ms();
		if (net_filter_up(&vm, err) < 0)
			return -1;
		t[1] = now_ms();
		if (net_tap_up(&vm, err) < 0)
			return -1;
		t[2] = now_ms();
		if (net_tap_down(&vm, NULL, err) < 0)
			return -1;
		t[3] = now_ms();
		if (net_filter_down(&vm, NULL, err) < 0)
			return -1;
		t[4] = now_ms();
		for (int j = 0; j < 4; j++)
			v[j][i] = t[j + 1] - t[j];
	}
	printf("= filter-up %.2f tap-up %.2f tap-down %.2f filter-down %.2f ms\n", median(v[0], count),
		median(v[1], count), median(v[2], count), median(v[3], count));
	return 0;
}

struct hammer {
	pthread_t thread;
	int number, rounds;
	struct fcm_error err;
	bool failed;
};

static void *hammer(void *arg)
{
	struct hammer *h = arg;
	struct net_vm vm = {.ip.s_addr = htonl(0xac100064 + (uint32_t)h->number)};

	fcm_format(vm.id.s, sizeof vm.id.s, "hammer%02d", h->number);
	for (int i = 0; i < h->rounds && !h->failed; i++)
		h->failed = net_filter_up(&vm, &h->err) < 0 || net_tap_up(&vm, &h->err) < 0 ||
			    net_sites(i % 2, &h->err) < 0 || net_tap_down(&vm, NULL, &h->err) < 0 ||
			    net_filter_down(&vm, NULL, &h->err) < 0;
	return NULL;
}

/* THREADS threads, each with a VM of its own that goes up and down ROUNDS times. */
static int do_hammer(char **w, struct fcm_error *err)
{
	struct hammer h[16] = {0};
	int n = MIN(atoi(w[1]), (int)ARRAY_SIZE(h)), r = 0;

	for (int i = 0; i < n; i++) {
		h[i].number = i;
		h[i].rounds = atoi(w[2]);
		if (pthread_create(&h[i].thread, NULL, hammer, &h[i]) != 0)
			abort();
	}
	for (int i = 0; i < n; i++) {
		pthread_join(h[i].thread, NULL);
		if (h[i].failed) {
			*err = h[i].err;
			r = -1;
		}
	}
	return r;
}

static const struct {
	const char *name;
	int words; /* at least, with the name */
	int (*run)(char **w, struct fcm_error *err);
} commands[] = {
	{"init", 4, do_init},
	{"watch", 1, do_watch},
	{"down", 1, do_down},
	{"filter-up", 4, do_filter_up},
	{"filter-down", 3, do_filter_down},
	{"tap-up", 4, do_tap_up},
	{"tap-down", 2, do_tap_down},
	{"up", 4, do_up},
	{"vm-down", 3, do_vm_down},
	{"describe", 4, do_describe},
	{"list", 1, do_list},
	{"sites", 2, do_sites},
	{"public-ip", 1, do_public_ip},
	{"resolvers", 1, do_resolvers},
	{"is-own", 2, do_is_own},
	{"open", 2, do_open},
	{"close", 1, do_close},
	{"cycle", 2, do_cycle},
	{"hammer", 3, do_hammer},
};

static int run(char **w, int n, struct fcm_error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (n >= commands[i].words && strcmp(w[0], commands[i].name) == 0)
			return commands[i].run(w, err);
	return fcm_fail(err, FCM_USAGE, "no such command, or too few words");
}

static void *serve(void *arg)
{
	char line[4096];

	while (fgets(line, sizeof line, stdin)) {
		char *w[WORDS + 1] = {0}, *save = NULL;
		int n = 0;
		for (char *p = strtok_r(line, " \n", &save); p && n < WORDS; p = strtok_r(NULL, " \n", &save))
			w[n++] = p;
		struct fcm_error err;
		if (n > 0 && run(w, n, &err) == 0)
			printf("ok\n");
		else if (n > 0)
			printf("error %s [%s] %s (%s)\n", fcm_code_info(err.code)->wire, err.field, err.msg,
				err.hint);
	}
	loop_stop(loop);
	return arg;
}

int main(void)
{
	struct fcm_error err;
	pthread_t thread;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (loop_new(&loop, &err) < 0 || pthread_create(&thread, NULL, serve, NULL) != 0)
		return 1;
	int r = loop_run(loop, &err);
	pthread_join(thread, NULL);
	fcm_closep(&tap_fd);
	loop_free(loop);
	return r < 0;
}
