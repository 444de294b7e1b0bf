/* fcm-agent as far as it goes without being PID 1: the session over a socketpair, and what is pure. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "images/agent/files.h"
#include "images/agent/init.h"
#include "images/agent/net.h"
#include "images/agent/session.h"
#include "images/agent/start.h"
#include "images/agent/wall.h"
#include "images/agent/yield.h"

struct world {
	struct agent agent;
	int host; /* our end of the channel */
	struct buf got;
};

static int setup(void **state)
{
	struct world *w = xalloc(sizeof *w);
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
		return -1;
	w->agent = (struct agent){
		.channel = {.fd = fds[0], .listen_fd = -1}, .boot_id = "b-o-o-t", .modules = -1};
	freeze_init(&w->agent.freezer, -1);
	w->host = fds[1];
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	close(w->host);
	close(w->agent.channel.fd);
	buf_done(&w->agent.channel.in);
	buf_done(&w->agent.channel.out);
	buf_done(&w->got);
	free(w);
	return 0;
}

/* The agent's loop, until it has nothing to do. */
static void run_agent(struct world *w)
{
	struct channel *c = &w->agent.channel;

	for (;;) {
		struct pollfd p = {.fd = c->fd, .events = channel_events(c)};
		if (p.events == 0 || poll(&p, 1, 0) <= 0)
			break;
		channel_serve(c, p.revents);
		channel_tick(c);
		session_serve(&w->agent);
	}
	channel_tick(c);
}

static void say(struct world *w, uint32_t stream, enum frame_type type, const void *payload, size_t n)
{
	_cleanup_(buf_done) struct buf b = {0};

	frame_add(&b, stream, type, payload, n);
	assert_int_equal(fd_write_all(w->host, b.p, b.n), 0);
}

#define SAY(w, stream, type, text) say(w, stream, type, text, sizeof(text))
#define HELLO(nonce) "magic=FCMA\0version=1\0nonce=" nonce

/* The next frame that the agent sent; false when there is none. */
static bool hear(struct world *w, struct frame *f)
{
	char chunk[4096];
	ssize_t n;

	while ((n = read(w->host, chunk, sizeof chunk)) > 0)
		buf_add(&w->got, chunk, (size_t)n);
	return frame_parse(w->got.p, w->got.n, f) > 0;
}

static void heard(struct world *w, const struct frame *f)
{
	buf_drop(&w->got, FRAME_HEADER + (size_t)f->len);
}

static void expect(struct world *w, uint32_t stream, enum frame_type type, const char *key, const char *value)
{
	struct frame f;

	run_agent(w);
	assert_true(hear(w, &f));
	assert_int_equal(f.stream, stream);
	assert_int_equal(f.type, type);
	const char *got = kv_get(f.payload, f.len, key);
	assert_non_null(got);
	assert_string_equal(got, value);
	heard(w, &f);
}

static void expect_silence(struct world *w)
{
	struct frame f;

	run_agent(w);
	assert_false(hear(w, &f));
}

static void hello_and_ping(void **state)
{
	struct world *w = *state;

	SAY(w, 0, FRAME_HELLO, HELLO("n1"));
	expect(w, 0, FRAME_HELLO, "nonce", "n1");
	SAY(w, 7, FRAME_REQ, "op=ping\0echo=abc");
	expect(w, 7, FRAME_RES, "echo", "abc");
	SAY(w, 8, FRAME_REQ, "op=ping");
	expect(w, 8, FRAME_RES, "boot_id", "b-o-o-t");
	expect_silence(w);
}

static void refusals(void **state)
{
	struct world *w = *state;

	SAY(w, 1, FRAME_REQ, "op=net\0address=10.0.0.2\0prefix=24");
	expect(w, 1, FRAME_RES, "error", "net: not before mount");
	SAY(w, 2, FRAME_REQ, "op=dance");
	expect(w, 2, FRAME_RES, "error", "op: 'dance' is not known");
	SAY(w, 3, FRAME_REQ, "");
	expect(w, 3, FRAME_RES, "error", "op: '' is not known");
	SAY(w, 4, FRAME_REQ, "op=power\0intent=explode");
	expect(w, 4, FRAME_RES, "error", "intent: poweroff or reboot");
	SAY(w, 5, FRAME_REQ, "op=clock\0ns=-4");
	expect(w, 5, FRAME_RES, "error", "ns: not a time between 2020 and 2200");
	SAY(w, 0, FRAME_HELLO, "magic=XXXX\0nonce=1");
	SAY(w, 9, FRAME_EVENT, "event=power");
	expect_silence(w);
	assert_int_equal(w->agent.power.phase, POWER_UP);
}

static void garbage_then_hello(void **state)
{
	struct world *w = *state;

	assert_int_equal(fd_write_all(w->host, "\xff\xff\xff\xff\xff\xff\xff\xff rubbish", 16), 0);
	expect_silence(w);
	SAY(w, 0, FRAME_HELLO, HELLO("n2"));
	expect(w, 0, FRAME_HELLO, "nonce", "n2");
}

/* A frame of 1000 bytes of which the host sent 20 before it died. */
static void begin_frame(struct world *w)
{
	static const char partial[20] = {1, 0, 0, 0, (char)0xe8, 3, FRAME_REQ, 0, 'o', 'p'};

	assert_int_equal(fd_write_all(w->host, partial, sizeof partial), 0);
	run_agent(w);
}

static void partial_frame_and_silence(void **state)
{
	struct world *w = *state;

	begin_frame(w);
	assert_true(channel_deadline(&w->agent.channel) <= clock_in(FRAME_SILENCE_MS));
	clock_sleep(FRAME_SILENCE_MS + 20);
	run_agent(w);
	SAY(w, 0, FRAME_HELLO, HELLO("n3"));
	expect(w, 0, FRAME_HELLO, "nonce", "n3");
}

/* The next host is there at once, and its HELLOs never leave FRAME_SILENCE_MS of silence. */
static void partial_frame_and_hellos(void **state)
{
	struct world *w = *state;
	int64_t end = clock_in(CHANNEL_FRAME_MS + 600);
	struct frame f;
	bool answered = false;

	begin_frame(w);
	while (!answered && clock_ms() < end) {
		SAY(w, 0, FRAME_HELLO, HELLO("n4"));
		run_agent(w);
		answered = hear(w, &f);
		clock_sleep(200);
	}
	assert_true(answered);
	assert_string_equal(kv_get(f.payload, f.len, "nonce"), "n4");
}

/* A host that asks and never listens: the agent stops reading, and goes on when it listens. */
static void deaf_host(void **state)
{
	struct world *w = *state;
	char ping[1000] = "op=ping";
	struct frame f;
	unsigned asked = 0, answered = 0;

	memset(ping + 8, 'x', 900);
	memcpy(ping + 8, "echo=", 5);
	for (int quiet = 0; quiet < 3; asked++) {
		_cleanup_(buf_done) struct buf b = {0};
		frame_add(&b, asked, FRAME_REQ, ping, sizeof ping);
		if (write(w->host, b.p, b.n) != (ssize_t)b.n) {
			quiet++;
			asked--;
		}
		run_agent(w);
		assert_true(w->agent.channel.out.n < CHANNEL_OUT_MAX + 2 * FRAME_MAX);
		assert_true(w->agent.channel.in.n < 200000);
		assert_true(asked < 100000);
	}
	assert_true(w->agent.channel.out.n >= CHANNEL_OUT_MAX);
	clock_sleep(FRAME_SILENCE_MS + 20);
	for (int i = 0; i < 1000; i++) {
		run_agent(w);
		while (hear(w, &f)) {
			assert_int_equal(f.stream, answered++);
			heard(w, &f);
		}
	}
	assert_int_equal(answered, asked);
}

/* Small requests with larger answers, all at once: what isn't looked at yet is neither answered nor given up. */
static void deaf_host_and_a_burst(void **state)
{
	enum { COUNT = 3000 };
	struct world *w = *state;
	_cleanup_(buf_done) struct buf burst = {0};
	const int small = 4096;
	struct frame f;
	uint32_t answered = 0;

	assert_int_equal(setsockopt(w->agent.channel.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
	for (uint32_t i = 0; i < COUNT; i++)
		frame_add(&burst, i, FRAME_REQ, "op=ping", 8);
	assert_int_equal(fd_write_all(w->host, burst.p, burst.n), 0);
	run_agent(w);
	assert_in_range(w->agent.channel.out.n, CHANNEL_OUT_MAX, CHANNEL_OUT_MAX + 4096);
	clock_sleep(FRAME_SILENCE_MS + 20);
	for (int i = 0; i < 10000 && answered < COUNT; i++) {
		run_agent(w);
		while (hear(w, &f)) {
			assert_int_equal(f.stream, answered++);
			heard(w, &f);
		}
	}
	assert_int_equal(answered, COUNT);
}

static void power_says_why(void **state)
{
	struct world *w = *state;

	SAY(w, 1, FRAME_REQ, "op=power\0intent=reboot\0grace_ms=60000");
	expect(w, 1, FRAME_RES, "ok", "1");
	expect(w, 0, FRAME_EVENT, "intent", "reboot");
	assert_int_equal(w->agent.power.phase, POWER_TERM);
	SAY(w, 2, FRAME_REQ, "op=power\0intent=poweroff\0grace_ms=10");
	expect(w, 2, FRAME_RES, "ok", "1");
	expect_silence(w);
	assert_int_equal(w->agent.power.intent, POWER_REBOOT);
	assert_true(power_deadline(&w->agent.power) <= clock_in(10));

	SAY(w, 0, FRAME_HELLO, HELLO("n5"));
	expect(w, 0, FRAME_HELLO, "nonce", "n5");
	expect(w, 0, FRAME_EVENT, "intent", "reboot");
}

static void host_gone(void **state)
{
	struct world *w = *state;

	shutdown(w->host, SHUT_WR);
	struct pollfd p = {.fd = w->agent.channel.fd, .events = channel_events(&w->agent.channel)};
	assert_int_equal(poll(&p, 1, 0), 1);
	channel_serve(&w->agent.channel, p.revents);
	assert_int_equal(channel_events(&w->agent.channel), 0);
	assert_true(channel_deadline(&w->agent.channel) <= clock_in(CHANNEL_HANGUP_MS));
}

/* What a host said before it went is worked off, which to a clone it seems to have done when it comes. */
static void host_gone_behind_its_word(void **state)
{
	struct world *w = *state;

	SAY(w, 0, FRAME_HELLO, HELLO("n9"));
	shutdown(w->host, SHUT_WR);
	expect(w, 0, FRAME_HELLO, "nonce", "n9");
	assert_int_equal(channel_events(&w->agent.channel), 0);
}

static void power_phases(void **state)
{
	struct power p = {0};

	(void)state;
	power_tick(&p, true, true);
	assert_int_equal(p.phase, POWER_UP);
	assert_true(power_deadline(&p) == FCM_FOREVER);
	power_begin(&p, POWER_OFF, 60000);
	power_tick(&p, false, true);
	assert_int_equal(p.phase, POWER_TERM);
	p.deadline = 0;
	power_tick(&p, false, true);
	assert_int_equal(p.phase, POWER_KILL);
	power_tick(&p, true, false);
	assert_int_equal(p.phase, POWER_WORD);
	power_tick(&p, true, true);
	assert_int_equal(p.phase, POWER_END);
}

static void power_commands(void **state)
{
	static const struct {
		const char *argv[4];
		int intent; /* -1: refused */
	} cases[] = {
		{{"/usr/sbin/poweroff"}, POWER_OFF},
		{{"halt", "-p"}, POWER_OFF},
		{{"reboot", "-f"}, POWER_REBOOT},
		{{"/sbin/shutdown", "-h", "now"}, POWER_OFF},
		{{"shutdown", "-r", "now"}, POWER_REBOOT},
		{{"shutdown"}, POWER_OFF},
		{{"shutdown", "+5"}, -1},
		{{"shutdown", "-c"}, -1},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		enum power_intent intent = POWER_OFF;
		struct fcm_error err;
		int argc = 0;
		while (argc < 4 && cases[i].argv[argc])
			argc++;
		int r = power_command_parse(argc, (char *const *)(uintptr_t)cases[i].argv, &intent, &err);
		assert_int_equal(r < 0 ? -1 : (int)intent, cases[i].intent);
	}
}

#define NET(text, ret, err) net_parse(text, sizeof(text), ret, err)

static void net_arguments(void **state)
{
	struct guest_net net;
	struct fcm_error err;

	(void)state;
	assert_int_equal(
		NET("address=172.16.0.50\0prefix=24\0gateway=172.16.0.1\0hostname=web", &net, &err), 0);
	assert_int_equal(ntohl(net.address.s_addr), 0xac100032);
	assert_int_equal(ntohl(net.mask.s_addr), 0xffffff00);
	assert_int_equal(ntohl(net.gateway.s_addr), 0xac100001);
	assert_string_equal(net.hostname, "web");
	assert_int_equal(NET("address=10.0.0.1\0prefix=32", &net, &err), 0);
	assert_int_equal(ntohl(net.mask.s_addr), 0xffffffff);
	assert_int_equal(NET("prefix=24", &net, &err), -1);
	assert_string_equal(err.field, "address");
	assert_int_equal(NET("address=1.2.3\0prefix=24", &net, &err), -1);
	assert_int_equal(NET("address=1.2.3.4\0prefix=0", &net, &err), -1);
	assert_string_equal(err.field, "prefix");
	assert_int_equal(NET("address=1.2.3.4\0prefix=8\0gateway=x", &net, &err), -1);
	assert_string_equal(err.field, "gateway");
	assert_int_equal(NET("address=1.2.3.4\0prefix=8\0hostname="
			     "0123456789012345678901234567890123456789012345678901234567890123",
				 &net, &err),
		-1);
	assert_string_equal(err.field, "hostname");
}

static void file_paths(void **state)
{
	static const char *const good[] = {
		"/a", "/etc/hostname", "/root/.ssh/authorized_keys", "/a/..b", "/a/..."};
	static const char *const bad[] = {
		"", "a", "/", "//a", "/a/", "/a//b", "/.", "/..", "/a/../b", "/a/./b", "/a/.."};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(files_path_valid(good[i]));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(files_path_valid(bad[i]));
	assert_false(files_path_valid(NULL));
}

static int write_file(const char *path, const char *mode, const char *text, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf b = {0};

	kv_add(&b, "path", path);
	kv_add(&b, "mode", mode);
	kv_addf(&b, "uid", "%u", getuid());
	kv_addf(&b, "gid", "%u", getgid());
	if (text) {
		kv_end(&b);
		buf_str(&b, text);
	}
	return files_write(b.p, b.n, err);
}

/* It makes parents, replaces a link instead of following it, and leaves no temporary file. */
static void file_contents(void **state)
{
	char dir[] = "/tmp/fcm-agent-test.XXXXXX", path[64], victim[64];
	_cleanup_(buf_done) struct buf got = {0};
	struct fcm_error err;
	struct stat st;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)fcm_format(path, sizeof path, "%s/a/b", dir);
	(void)fcm_format(victim, sizeof victim, "%s/victim", dir);
	assert_int_equal(write_file(path, "640", "one", &err), 0);
	assert_int_equal(write_file(victim, "600", "safe", &err), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink(victim, path), 0);
	assert_int_equal(write_file(path, "640", "two", &err), 0);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0640);
	assert_int_equal(file_read(AT_FDCWD, victim, 100, &got, &err), 0);
	assert_string_equal(got.p, "safe");
	assert_int_equal(write_file(path, "999", "x", &err), -1);
	assert_string_equal(err.field, "mode");
	assert_int_equal(write_file(path, "644", NULL, &err), -1);
	assert_int_equal(dir_remove(AT_FDCWD, dir, NULL, &err), 0);
}

#define ENV(text, ret, err) start_env_parse(text, sizeof(text), ret, err)

static void environment(void **state)
{
	_cleanup_(strv_done) struct strv env = {0};
	_cleanup_(strv_done) struct strv bad = {0};
	struct fcm_error err;

	(void)state;
	assert_int_equal(ENV("op=start\0env=A=1\0env=_b2=x y=\"#\0env=C=", &env, &err), 0);
	assert_int_equal(env.n, 3);
	assert_string_equal(env.v[1], "_b2=x y=\"#");
	assert_int_equal(ENV("env=1A=x", &bad, &err), -1);
	assert_int_equal(ENV("env==x", &bad, &err), -1);
	assert_int_equal(ENV("env=A", &bad, &err), -1);
	assert_int_equal(ENV("env=A=x\ny", &bad, &err), -1);
	assert_int_equal(ENV("env=A-B=x", &bad, &err), -1);
	assert_string_equal(err.field, "env");
}

#define MS 1000000LL

static void clock_ways(void **state)
{
	static const struct {
		int64_t off_ms;
		bool runs;
		enum wall_way way;
	} cases[] = {
		{0, true, WALL_LEAVE},
		{100, true, WALL_LEAVE},
		{-100, true, WALL_LEAVE},
		{101, true, WALL_SLEW},
		{-101, true, WALL_SLEW},
		{500, true, WALL_SLEW},
		{-500, true, WALL_SLEW},
		{501, true, WALL_STEP},
		{-501, true, WALL_STEP},
		{86400000, true, WALL_STEP},
		{1, false, WALL_STEP},
		{0, false, WALL_STEP},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(wall_way(cases[i].off_ms * MS, cases[i].runs), cases[i].way);
}

#define WALL(text, up) wall_parse(text, sizeof(text), up, &ns, &err)

static void clock_arguments(void **state)
{
	struct fcm_error err;
	int64_t ns = 7;

	(void)state;
	assert_int_equal(WALL("ns=", 5), -1);
	assert_int_equal(WALL("ns=1577836799999999999", 5), -1);
	assert_int_equal(WALL("ns=7258118400000000001", 5), -1);
	assert_int_equal(WALL("ns=99999999999999999999", 5), -1);
	assert_int_equal(WALL("ns=1800000000000000000x", 5), -1);
	assert_string_equal(err.field, "ns");
	assert_int_equal(WALL("ns=1800000000000000000\0uptime_ms=6", 5), -1);
	assert_int_equal(WALL("ns=1800000000000000000\0uptime_ms=-1", 5), -1);
	assert_int_equal(WALL("ns=1800000000000000000\0uptime_ms=", 5), -1);
	assert_string_equal(err.field, "uptime_ms");
	assert_int_equal(ns, 7);

	assert_int_equal(WALL("ns=1800000000000000000", 5), 0);
	assert_true(ns == 1800000000000 * MS);
	/* it lay around for two seconds */
	assert_int_equal(WALL("ns=1800000000000000000\0uptime_ms=3000", 5000), 0);
	assert_true(ns == 1800000002000 * MS);
}

/* A clock that is right stays as it is, so this machine's isn't touched. */
static void clock_is_right(void **state)
{
	struct world *w = *state;
	_cleanup_(buf_done) struct buf b = {0};
	struct timespec t;
	struct frame f;

	w->agent.started = true;
	clock_gettime(CLOCK_REALTIME, &t);
	kv_add(&b, "op", "clock");
	kv_addf(&b, "ns", "%lld", (long long)(t.tv_sec * 1000 * MS + t.tv_nsec));
	kv_addf(&b, "uptime_ms", "%lld", (long long)clock_ms());
	say(w, 3, FRAME_REQ, b.p, b.n);
	run_agent(w);
	assert_true(hear(w, &f));
	assert_int_equal(f.type, FRAME_RES);
	assert_in_range(kv_i64(f.payload, f.len, "off_ms", -10000, 10000, 9999) + 100, 0, 200);
	heard(w, &f);
}

/* Without an init that could be executed the agent stays what it is. */
static void no_init(void **state)
{
	struct fcm_error err = {0};
	char name[] = "agent";
	sigset_t some, after;

	(void)state;
	assert_false(yield_wanted());
	sigemptyset(&some);
	sigaddset(&some, SIGUSR2);
	sigprocmask(SIG_BLOCK, &some, NULL);
	assert_int_equal(yield_pid1(name, &err), -1);
	assert_int_equal(err.sys, ENOENT);
	assert_non_null(strstr(err.msg, YIELD_INIT));
	assert_string_equal(name, "agent");
	sigprocmask(SIG_UNBLOCK, &some, &after);
	assert_true(sigismember(&after, SIGUSR2));
	signal(SIGPIPE, SIG_DFL);
}

/* How a main process ended, and what its machine should do then. */
static void main_ends(void **state)
{
	static const struct {
		int status, exit; /* as waitpid(2) has it; as the host is told */
		bool reboot;
	} cases[] = {{0, 0, false}, {7 << 8, 7, false}, {SIGKILL, 137, false}, {SIGSEGV, 139, false},
		{SIGINT, 0, false}, /* reboot(RB_POWER_OFF) in its namespace */
		{SIGHUP, 0, true}}; /* reboot(RB_AUTOBOOT) */

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct mainproc m = {
			.given = true, .pid = 42, .report = -1, .in = -1, .out = {-1, -1}, .peer = -1};
		mainproc_reaped(&m, 41, SIGKILL);
		assert_false(m.ended);
		mainproc_reaped(&m, 42, cases[i].status);
		assert_true(m.ended);
		assert_int_equal(m.exit, cases[i].exit);
		assert_int_equal(m.reboot, cases[i].reboot);
	}
}

static void main_is_not_there(void **state)
{
	struct world *w = *state;

	w->agent.root.mounted = true;
	SAY(w, 1, FRAME_REQ, "op=kill\0signal=15");
	expect(w, 1, FRAME_RES, "error", "kill: the main process doesn't run");
	SAY(w, 2, FRAME_REQ, "op=kill\0signal=65");
	expect(w, 2, FRAME_RES, "error", "signal: 1 to 64");
}

/* By what the first word leads to, wherever PATH finds it; and only root's. */
static void systemd_is_seen(void **state)
{
	char dir[] = "/tmp/fcm-agent-test.XXXXXX", init[64], target[64];
	struct fcm_error err;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)fcm_format(target, sizeof target, "%s/lib/systemd", dir);
	(void)fcm_format(init, sizeof init, "%s/init", dir);
	assert_int_equal(write_file(target, "755", "", &err), 0);
	assert_int_equal(symlink(target, init), 0);
	auto_free char *path = xprintf("PATH=/nowhere:%s", dir);
	const struct {
		const char *word;
		uid_t uid;
		bool is;
	} cases[] = {{target, 0, true}, {init, 0, true}, {"init", 0, true}, {"systemd", 0, false},
		{dir, 0, false}, {"/nowhere/systemd", 0, false}, {init, 1, false}};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct spawn sp = {.stdio = {-1, -1, -1}, .user.uid = cases[i].uid};
		strv_add(&sp.argv, cases[i].word);
		strv_add(&sp.env, path);
		if (init_is_systemd(&sp) != cases[i].is)
			fail_msg("%s", cases[i].word);
		spawn_done(&sp);
	}
	assert_int_equal(dir_remove(AT_FDCWD, dir, NULL, &err), 0);
}

int main(void)
{
#define SESSION(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		SESSION(hello_and_ping),
		SESSION(refusals),
		SESSION(garbage_then_hello),
		SESSION(partial_frame_and_silence),
		SESSION(partial_frame_and_hellos),
		SESSION(deaf_host),
		SESSION(deaf_host_and_a_burst),
		SESSION(power_says_why),
		SESSION(host_gone),
		SESSION(host_gone_behind_its_word),
		SESSION(clock_is_right),
		SESSION(main_is_not_there),
		cmocka_unit_test(main_ends),
		cmocka_unit_test(systemd_is_seen),
		cmocka_unit_test(clock_ways),
		cmocka_unit_test(clock_arguments),
		cmocka_unit_test(no_init),
		cmocka_unit_test(power_phases),
		cmocka_unit_test(power_commands),
		cmocka_unit_test(net_arguments),
		cmocka_unit_test(file_paths),
		cmocka_unit_test(file_contents),
		cmocka_unit_test(environment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
