/* exec in fcm-agent: real programs of this machine over a socketpair. Needs root. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "images/agent/copy.h"
#include "images/agent/user.h"
#include "tests/unit/agenttest.h"

enum { VIEWS = EXEC_MAX + 2, PATIENCE_MS = 20000, MIB = 1 << 20 };

/* A stream as the host sees it. */
struct view {
	struct buf data[STREAM_CHANNELS];
	size_t got[STREAM_CHANNELS];
	bool ended[STREAM_CHANNELS], over, deaf; /* deaf: grants no credit */
	size_t credit;				 /* ours, for its stdin */
	struct buf res;
};

struct world {
	struct agenttest side;
	struct view views[VIEWS];
	bool hello;
};

static int setup(void **state)
{
	struct world *w = xalloc(sizeof *w);

	*state = w;
	return agenttest_begin(&w->side);
}

static int teardown(void **state)
{
	struct world *w = *state;

	agenttest_end(&w->side);
	for (unsigned i = 0; i < VIEWS; i++) {
		buf_done(&w->views[i].res);
		for (unsigned k = 0; k < STREAM_CHANNELS; k++)
			buf_done(&w->views[i].data[k]);
	}
	free(w);
	return 0;
}

static void request(struct world *w, uint32_t stream, const char *kv, size_t n)
{
	_cleanup_(buf_done) struct buf b = {0};

	w->views[stream].credit = FRAME_WINDOW;
	frame_add(&b, stream, FRAME_REQ, kv, n);
	agenttest_send(&w->side, &b);
}

#define REQUEST(w, stream, kv) request(w, stream, kv, sizeof(kv))
#define SH(w, stream, script, more) REQUEST(w, stream, "op=exec\0arg=/bin/sh\0arg=-c\0arg=" script "\0" more)

static void send_data(struct world *w, uint32_t stream, const void *p, size_t n)
{
	_cleanup_(buf_done) struct buf b = {0};

	for (size_t at = 0; at < n; at += FRAME_MAX)
		frame_add_data(&b, stream, FRAME_STDIN, (const char *)p + at, MIN((size_t)FRAME_MAX, n - at));
	agenttest_send(&w->side, &b);
}

static void send_end(struct world *w, uint32_t stream)
{
	_cleanup_(buf_done) struct buf b = {0};

	frame_add_end(&b, stream, FRAME_STDIN);
	agenttest_send(&w->side, &b);
}

static void grant(struct world *w, uint32_t stream, unsigned channel, uint32_t n)
{
	_cleanup_(buf_done) struct buf b = {0};

	frame_add_credit(&b, stream, (enum frame_channel)channel, n);
	agenttest_send(&w->side, &b);
}

static void take(void *arg, const struct frame *f)
{
	struct world *w = arg;

	if (f->type == FRAME_HELLO)
		w->hello = true;
	if (f->type == FRAME_HELLO || f->type == FRAME_EVENT)
		return;
	assert_in_range(f->stream, 1, VIEWS - 1);
	struct view *v = &w->views[f->stream];
	assert_false(v->over);
	if (f->type == FRAME_DATA) {
		assert_false(v->ended[f->channel]);
		v->got[f->channel] += f->len;
		buf_add(&v->data[f->channel], f->payload, f->len);
		if (!v->deaf)
			grant(w, f->stream, f->channel, f->len);
	} else if (f->type == FRAME_CREDIT) {
		v->credit += frame_credit(f);
	} else if (f->type == FRAME_END) {
		v->ended[f->channel] = true;
	} else {
		v->over = true;
		buf_add(&v->res, f->payload, f->len);
	}
}

static void round_of(struct world *w)
{
	agenttest_round(&w->side, take, w);
}

#define UNTIL(w, condition)                                                                                  \
	do {                                                                                                 \
		int64_t end_ = clock_in(PATIENCE_MS);                                                        \
		while (!(condition) && clock_ms() < end_)                                                    \
			round_of(w);                                                                         \
		assert_true(condition);                                                                      \
	} while (0)

static void run_for(struct world *w, int64_t ms)
{
	for (int64_t end = clock_in(ms); clock_ms() < end;)
		round_of(w);
}

static const char *result(const struct view *v, const char *key)
{
	const char *s = kv_get(v->res.p, v->res.n, key);

	return s ? s : "";
}

static const char *text(struct view *v, unsigned channel)
{
	return v->data[channel].n ? v->data[channel].p : "";
}

static bool alive(pid_t pid)
{
	return kill(pid, 0) == 0;
}

static void output_and_status(void **state)
{
	struct world *w = *state;
	struct view *v = &w->views[1];

	SH(w, 1, "echo out; echo err >&2; exit 3", "");
	UNTIL(w, v->over);
	assert_string_equal(text(v, 1), "out\n");
	assert_string_equal(text(v, 2), "err\n");
	assert_true(v->ended[1] && v->ended[2]);
	assert_string_equal(result(v, "ok"), "1");
	assert_string_equal(result(v, "exit"), "3");
	SH(w, 2, "kill -9 $$", "");
	UNTIL(w, w->views[2].over);
	assert_string_equal(result(&w->views[2], "signal"), "9");
	assert_string_equal(result(&w->views[2], "exit"), "");
	assert_int_equal(w->side.agent.execs.count, 0);
}

static void what_cannot_run(void **state)
{
	struct world *w = *state;

	REQUEST(w, 1, "op=exec\0arg=no-such-program");
	REQUEST(w, 2, "op=exec\0arg=/no/such/program");
	REQUEST(w, 3, "op=exec\0arg=/etc/passwd");
	REQUEST(w, 4, "op=exec\0arg=/etc");
	REQUEST(w, 5, "op=exec\0arg=true\0dir=/no/such/directory");
	REQUEST(w, 6, "op=exec");
	REQUEST(w, 7, "op=exec\0arg=true\0user=nosuchuser");
	REQUEST(w, 8, "op=exec\0arg=true\0dir=relative");
	REQUEST(w, 9, "op=exec\0arg=true\0tty=1\0rows=0");
	REQUEST(w, 10, "op=exec\0arg=true\0env=1=2");
	REQUEST(w, 11, "op=exec\0arg=");
	REQUEST(w, 12, "op=exec\0arg=true\0env=PATH=/etc:/root");
	for (unsigned i = 1; i <= 12; i++) {
		UNTIL(w, w->views[i].over);
		assert_string_not_equal(result(&w->views[i], "error"), "");
	}
	assert_string_equal(result(&w->views[1], "exit"), "127");
	assert_string_equal(result(&w->views[1], "error"), "execute the program: No such file or directory");
	assert_string_equal(result(&w->views[2], "exit"), "127");
	assert_string_equal(result(&w->views[3], "exit"), "126");
	assert_string_equal(result(&w->views[4], "exit"), "126");
	assert_string_equal(result(&w->views[5], "exit"), "");
	assert_string_equal(result(&w->views[5], "errno"), "2");
	assert_string_equal(result(&w->views[11], "exit"), "127");
	assert_string_equal(result(&w->views[12], "exit"), "127");
	UNTIL(w, w->side.agent.execs.count == 0);
}

/* Also while the host hears nothing of it, and against another stream in between. */
static void ten_mebibytes_through_cat(void **state)
{
	enum { TOTAL = 10 << 20 };
	struct world *w = *state;
	struct view *v = &w->views[1];
	auto_free char *all = xalloc(TOTAL);
	size_t sent = 0;

	for (size_t i = 0; i < TOTAL; i++)
		all[i] = (char)(i * 2654435761u >> 13);
	REQUEST(w, 1, "op=exec\0arg=cat\0stdin=1");
	for (int64_t end = clock_in(PATIENCE_MS); sent < TOTAL && clock_ms() < end; round_of(w)) {
		size_t n = MIN(v->credit, TOTAL - sent);
		send_data(w, 1, all + sent, n);
		sent += n;
		v->credit -= n;
	}
	assert_int_equal(sent, TOTAL);
	send_end(w, 1);
	UNTIL(w, v->over);
	assert_string_equal(result(v, "exit"), "0");
	assert_int_equal(v->data[1].n, TOTAL);
	assert_memory_equal(v->data[1].p, all, TOTAL);
}

static void stdin_is_empty_without_asking(void **state)
{
	struct world *w = *state;

	REQUEST(w, 1, "op=exec\0arg=cat");
	send_data(w, 1, "lost", 4);
	UNTIL(w, w->views[1].over);
	assert_string_equal(result(&w->views[1], "exit"), "0");
	assert_int_equal(w->views[1].got[1], 0);
	/* What the program doesn't want is used up all the same. */
	SH(w, 2, "exec <&-; sleep 0.3", "stdin=1");
	run_for(w, 100);
	static const char some[FRAME_WINDOW];
	for (int i = 0; i < 5; i++) {
		UNTIL(w, w->views[2].credit >= FRAME_WINDOW);
		send_data(w, 2, some, sizeof some);
		w->views[2].credit -= sizeof some;
	}
	UNTIL(w, w->views[2].over);
	assert_string_equal(result(&w->views[2], "exit"), "0");
}

static void who_grants_nothing_stops_nobody_else(void **state)
{
	static const char some[FRAME_WINDOW];
	struct world *w = *state;

	w->views[1].deaf = true;
	REQUEST(w, 1, "op=exec\0arg=yes");
	REQUEST(w, 2, "op=exec\0arg=sleep\0arg=1000\0stdin=1");
	send_data(w, 2, some, sizeof some);
	run_for(w, 300);
	SH(w, 3, "echo here", "");
	UNTIL(w, w->views[3].over);
	assert_string_equal(text(&w->views[3], 1), "here\n");
	assert_int_equal(w->views[1].got[1], FRAME_WINDOW);
	assert_int_equal(w->side.agent.execs.count, 2);
	grant(w, 1, 1, 1000);
	UNTIL(w, w->views[1].got[1] == FRAME_WINDOW + 1000);
	run_for(w, 50);
	assert_int_equal(w->views[1].got[1], FRAME_WINDOW + 1000);
}

/* A flood that is taken leaves room for another. */
static void a_flood_is_fair(void **state)
{
	struct world *w = *state;

	REQUEST(w, 1, "op=exec\0arg=yes");
	REQUEST(w, 2, "op=exec\0arg=yes");
	SH(w, 3, "sleep 0.2; echo here", "");
	UNTIL(w, w->views[3].over);
	UNTIL(w, MAX(w->views[1].got[1], w->views[2].got[1]) > (size_t)32 * FRAME_WINDOW);
	size_t one = w->views[1].got[1], two = w->views[2].got[1];
	assert_true(one > FRAME_WINDOW && two > FRAME_WINDOW);
	assert_true(one < 3 * two && two < 3 * one);
}

static void over_the_window(void **state)
{
	static const char some[FRAME_WINDOW + 1];
	struct world *w = *state;

	REQUEST(w, 1, "op=exec\0arg=sleep\0arg=1000\0stdin=1");
	UNTIL(w, w->side.agent.execs.count == 1 && w->side.agent.execs.open[0]->report < 0);
	pid_t pid = w->side.agent.execs.open[0]->pid;
	/* What is used up is granted again, so that this is too much. */
	send_data(w, 1, some, FRAME_WINDOW);
	run_for(w, 50);
	size_t granted = w->views[1].credit - FRAME_WINDOW;
	send_data(w, 1, some, granted);
	run_for(w, 50);
	assert_int_equal(w->side.agent.execs.count, 1);
	assert_true(w->side.agent.execs.open[0]->in.n <= FRAME_WINDOW);
	send_data(w, 1, some, w->side.agent.execs.open[0]->credit[FRAME_STDIN] + 1);
	UNTIL(w, w->side.agent.execs.count == 0 && !alive(pid));
	assert_false(w->views[1].over);
}

static void terminal(void **state)
{
	struct world *w = *state;
	struct view *v = &w->views[1];

	SH(w, 1, "stty size; tty; echo $TERM; read x; stty size; echo err >&2; test -t 0 -a -t 1 -a -t 2",
		"tty=1\0rows=33\0cols=101\0stdin=1");
	UNTIL(w, strstr(text(v, 1), "xterm\r\n"));
	assert_ptr_equal(strstr(text(v, 1), "33 101\r\n/dev/pts/"), text(v, 1));
	REQUEST(w, 2, "op=resize\0stream=1\0rows=40\0cols=120");
	UNTIL(w, w->views[2].over);
	assert_string_equal(result(&w->views[2], "ok"), "1");
	send_data(w, 1, "\n", 1);
	UNTIL(w, v->over);
	assert_string_equal(result(v, "exit"), "0");
	assert_non_null(strstr(text(v, 1), "40 120\r\nerr\r\n"));
	assert_true(v->ended[1] && !v->ended[2]);
	assert_int_equal(v->got[2], 0);
}

static void terminal_keys_and_signals(void **state)
{
	struct world *w = *state;

	REQUEST(w, 1, "op=exec\0arg=cat\0tty=1\0stdin=1");
	send_data(w, 1, "a line\n", 7);
	UNTIL(w, strstr(text(&w->views[1], 1), "a line\r\na line\r\n"));
	send_end(w, 1);
	UNTIL(w, w->views[1].over);
	assert_string_equal(result(&w->views[1], "exit"), "0");
	REQUEST(w, 2, "op=exec\0arg=cat\0tty=1\0stdin=1");
	send_data(w, 2, "x\n\x03", 3);
	UNTIL(w, w->views[2].over);
	assert_string_equal(result(&w->views[2], "signal"), "2");
	/* With job control what is in the foreground isn't the program's own group. */
	SH(w, 3, "set -m; sh -c \"trap 'echo got; exit 7' INT; echo ready; sleep 20 & wait\"; echo then $?",
		"tty=1");
	UNTIL(w, strstr(text(&w->views[3], 1), "ready"));
	run_for(w, 100);
	REQUEST(w, 4, "op=signal\0stream=3\0signal=2");
	UNTIL(w, w->views[3].over);
	assert_non_null(strstr(text(&w->views[3], 1), "got\r\nthen 7\r\n"));
}

static void signals(void **state)
{
	struct world *w = *state;

	SH(w, 1, "trap 'echo usr1; exit 5' USR1; echo ready; while :; do sleep 0.1; done", "");
	UNTIL(w, w->views[1].got[1] == 6);
	REQUEST(w, 2, "op=signal\0stream=1\0signal=10");
	UNTIL(w, w->views[1].over);
	assert_string_equal(text(&w->views[1], 1), "ready\nusr1\n");
	assert_string_equal(result(&w->views[1], "exit"), "5");
	REQUEST(w, 3, "op=signal\0stream=1\0signal=15");
	REQUEST(w, 4, "op=signal\0stream=1\0signal=999");
	REQUEST(w, 5, "op=resize\0stream=77\0rows=1\0cols=1");
	REQUEST(w, 6, "op=close");
	for (unsigned i = 3; i <= 6; i++) {
		UNTIL(w, w->views[i].over);
		assert_string_not_equal(result(&w->views[i], "error"), "");
	}
	/* Programs hear signals as if nobody blocked or ignored them. */
	SH(w, 7, "yes | head -n1; grep -E '^Sig(Blk|Ign)' /proc/self/status | grep -vc 0000000000000000", "");
	UNTIL(w, w->views[7].over);
	assert_string_equal(text(&w->views[7], 1), "y\n0\n");
}

/* Two processes that don't care for SIGHUP; returns when both run. */
static void start_stubborn(struct world *w, pid_t ret[2])
{
	SH(w, 1, "trap '' HUP; sleep 1000 & echo $!; wait", "");
	UNTIL(w, w->views[1].got[1] > 0);
	ret[0] = w->side.agent.execs.open[0]->pid;
	ret[1] = atoi(text(&w->views[1], 1));
	assert_true(alive(ret[0]) && ret[1] > 1 && alive(ret[1]));
}

static void expect_killed(struct world *w, const pid_t pids[2])
{
	int64_t begun = clock_ms();

	UNTIL(w, w->side.agent.execs.count == 0);
	UNTIL(w, !alive(pids[0]) && !alive(pids[1]));
	assert_in_range(clock_ms() - begun, EXEC_KILL_MS - 200, EXEC_KILL_MS + 2000);
	assert_false(w->views[1].over);
	assert_int_equal(w->side.agent.execs.doomed_count, 0);
}

static void close_kills_the_group(void **state)
{
	struct world *w = *state;
	pid_t pids[2];

	start_stubborn(w, pids);
	REQUEST(w, 2, "op=close\0stream=1");
	expect_killed(w, pids);
	assert_string_equal(result(&w->views[2], "ok"), "1");
}

static void hello_closes_all(void **state)
{
	static const char hello[] = "magic=FCMA\0version=1\0nonce=n";
	struct world *w = *state;
	_cleanup_(buf_done) struct buf b = {0};
	pid_t pids[2];

	start_stubborn(w, pids);
	REQUEST(w, 2, "op=exec\0arg=sleep\0arg=1000");
	REQUEST(w, 3, "op=exec\0arg=sleep\0arg=1000\0detach=1");
	UNTIL(w, w->views[3].over);
	pid_t detached = atoi(result(&w->views[3], "pid"));
	assert_true(detached > 1);
	assert_int_equal(w->side.agent.execs.count, 2);
	pid_t soft = w->side.agent.execs.open[1]->pid;
	frame_add(&b, 0, FRAME_HELLO, hello, sizeof hello);
	agenttest_send(&w->side, &b);
	UNTIL(w, w->hello && !alive(soft));
	assert_true(alive(pids[0]));
	expect_killed(w, pids);
	assert_false(w->views[2].over);
	assert_true(alive(detached));
	kill(detached, SIGKILL);
	UNTIL(w, !alive(detached));
}

static void hang_up_closes_all(void **state)
{
	struct world *w = *state;
	pid_t pids[2];

	start_stubborn(w, pids);
	shutdown(w->side.host, SHUT_WR);
	expect_killed(w, pids);
}

static void output_that_is_left_open(void **state)
{
	struct world *w = *state;

	SH(w, 1, "sleep 1000 & echo hi; echo $!", "");
	UNTIL(w, w->views[1].got[1] > 0);
	int64_t begun = clock_ms();
	UNTIL(w, w->views[1].over);
	assert_in_range(clock_ms() - begun, STREAM_QUIET_MS - 50, STREAM_QUIET_MS + 1000);
	assert_true(w->views[1].ended[1] && w->views[1].ended[2]);
	assert_string_equal(result(&w->views[1], "exit"), "0");
	pid_t left = atoi(text(&w->views[1], 1) + 3);
	assert_true(left > 1 && alive(left));
	kill(left, SIGKILL);
}

/* A host that grants nothing for a while loses nothing. */
static void output_that_waits_for_credit(void **state)
{
	struct world *w = *state;
	struct view *v = &w->views[1];

	v->deaf = true;
	SH(w, 1, "sleep 1000 & head -c 100000 /dev/zero; exit 4", "");
	run_for(w, 600);
	assert_int_equal(v->got[1], FRAME_WINDOW);
	assert_false(v->over);
	grant(w, 1, 1, FRAME_WINDOW);
	UNTIL(w, v->over);
	assert_int_equal(v->got[1], 100000);
	assert_string_equal(result(v, "exit"), "4");
}

static void as_many_as_allowed(void **state)
{
	struct world *w = *state;

	for (uint32_t i = 1; i <= EXEC_MAX; i++) {
		REQUEST(w, i, "op=exec\0arg=cat\0stdin=1");
		round_of(w);
	}
	REQUEST(w, EXEC_MAX + 1, "op=exec\0arg=cat");
	UNTIL(w, w->views[EXEC_MAX + 1].over);
	assert_string_equal(result(&w->views[EXEC_MAX + 1], "error"), "128 programs run already");
	for (uint32_t i = 1; i <= EXEC_MAX; i++) {
		send_data(w, i, &i, 1);
		send_end(w, i);
		round_of(w);
	}
	for (uint32_t i = 1; i <= EXEC_MAX; i++) {
		UNTIL(w, w->views[i].over);
		assert_string_equal(result(&w->views[i], "exit"), "0");
		assert_int_equal(w->views[i].data[1].n, 1);
		assert_memory_equal(w->views[i].data[1].p, &i, 1);
	}
	assert_int_equal(w->side.agent.execs.count, 0);
}

static void who_and_where(void **state)
{
	struct world *w = *state;
	struct view *v = w->views;

	SH(w, 1, "id -u; id -g; pwd; echo $HOME $USER $A", "user=nobody\0dir=/tmp\0env=A=b c\0env=USER=x");
	SH(w, 2, "id -u; id -g; id -G", "user=12345:daemon");
	SH(w, 3, "echo $PATH $HOME $USER $SHELL; pwd; echo $TERM", "");
	SH(w, 4, "tty; ps -o pid=,pgid=,sid= $$", "");
	for (unsigned i = 1; i <= 4; i++)
		UNTIL(w, v[i].over);
	assert_string_equal(text(&v[1], 1), "65534\n65534\n/tmp\n/nonexistent x b c\n");
	assert_string_equal(text(&v[2], 1), "12345\n1\n1\n");
	assert_ptr_equal(strstr(text(&v[3], 1),
				 "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /root root /"),
		text(&v[3], 1));
	assert_non_null(strstr(text(&v[3], 1), "sh\n/root\n\n"));
	assert_non_null(strstr(text(&v[4], 1), "not a tty"));
}

static void not_while_the_machine_ends(void **state)
{
	struct world *w = *state;

	REQUEST(w, 1, "op=power\0intent=poweroff\0grace_ms=60000");
	REQUEST(w, 2, "op=exec\0arg=true");
	UNTIL(w, w->views[2].over);
	assert_string_equal(result(&w->views[2], "error"), "exec: the machine ends");
	w->side.agent.root.mounted = false;
	REQUEST(w, 3, "op=exec\0arg=true");
	UNTIL(w, w->views[3].over);
	assert_string_equal(result(&w->views[3], "error"), "exec: not before mount");
}

static void write_text(const char *dir, const char *name, const char *s)
{
	char path[64];
	struct fcm_error err;

	(void)fcm_format(path, sizeof path, "%s/%s", dir, name);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, 0644, s, strlen(s), &err), 0);
}

static void users(void **state)
{
	char etc[] = "/tmp/fcm-agent-users.XXXXXX";
	struct fcm_error err;
	struct user u;

	(void)state;
	assert_non_null(mkdtemp(etc));
	assert_int_equal(user_find(etc, NULL, &u, &err), 0);
	assert_string_equal(u.home, "/");
	assert_string_equal(u.name, "0");
	write_text(etc, "passwd",
		"root:x:0:0:root:/root:/bin/bash\nbroken\nwww:x:33:34:::\n7:x:70:71::/seven:/bin/sh\n"
		"seven:x:7:8::/home/seven:/bin/sh\n");
	write_text(etc, "group", "root:x:0:\nwww:x:34:www\nstaff:x:50:seven,www\nlog:x:51:www\n");
	assert_int_equal(user_find(etc, NULL, &u, &err), 0);
	assert_string_equal(u.home, "/root");
	assert_string_equal(u.shell, "/bin/bash");
	assert_int_equal(user_find(etc, "www", &u, &err), 0);
	assert_int_equal(u.uid, 33);
	assert_int_equal(u.gid, 34);
	assert_int_equal(u.group_count, 3);
	assert_int_equal(u.groups[2], 51);
	assert_string_equal(u.home, "/");
	assert_string_equal(u.shell, "/bin/sh");
	assert_int_equal(user_find(etc, "33:staff", &u, &err), 0);
	assert_int_equal(u.gid, 50);
	assert_int_equal(u.group_count, 1);
	assert_int_equal(user_find(etc, "7", &u, &err), 0); /* a name before a number */
	assert_int_equal(u.uid, 70);
	assert_int_equal(user_find(etc, "999:998", &u, &err), 0);
	assert_int_equal(u.gid, 998);
	static const char *const bad[] = {"", "nobody", "www:nogroup", "www:", ":www", "-1", "4294967295",
		"0:4294967295", "99999999999", "root:x:0"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(user_find(etc, bad[i], &u, &err), -1);
		assert_string_equal(err.field, "user");
	}
	assert_int_equal(dir_remove(AT_FDCWD, etc, NULL, &err), 0);
}

/* What a guest puts in their place is like no file, and PID 1 doesn't wait for it. */
static void users_of_no_file(void **state)
{
	char etc[] = "/tmp/fcm-agent-users.XXXXXX", path[64];
	static const char *const names[] = {"passwd", "group"};
	struct fcm_error err;
	struct user u;

	(void)state;
	assert_non_null(mkdtemp(etc));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		(void)fcm_format(path, sizeof path, "%s/%s", etc, names[i]);
		assert_int_equal(mkfifo(path, 0600), 0);
	}
	alarm(PATIENCE_MS / 1000);
	assert_int_equal(user_find(etc, "7:8", &u, &err), 0);
	assert_int_equal(u.uid, 7);
	assert_int_equal(u.gid, 8);
	assert_int_equal(user_find(etc, "www", &u, &err), -1);
	alarm(0);
	assert_int_equal(dir_remove(AT_FDCWD, etc, NULL, &err), 0);
}

/* op=put and op=get: this program is called as the agent would be. */
static void files_in_and_out(void **state)
{
	struct world *w = *state;
	struct view *put = &w->views[1], *get = &w->views[2];
	_cleanup_(buf_done) struct buf archive = {0};
	char dir[] = "/tmp/fcm-test-copy-XXXXXX";
	struct fcm_error err = {0};

	assert_non_null(mkdtemp(dir));
	auto_free char *file = xprintf("%s/data", dir);
	char *block = xalloc(MIB);
	for (size_t i = 0; i < MIB; i++)
		block[i] = (char)(i * 7 >> 3);
	assert_int_equal(file_write_atomic(AT_FDCWD, file, 0640, block, MIB, &err), 0);
	free(block);
	_cleanup_(buf_done) struct buf kv = {0};
	kv_add(&kv, "op", "get");
	kv_add(&kv, "path", file);
	request(w, 2, kv.p, kv.n);
	UNTIL(w, get->over);
	assert_string_equal(result(get, "exit"), "0");
	assert_in_range(get->data[1].n, MIB + 3 * 512, MIB + 4096);
	unlink(file);

	buf_done(&kv);
	kv_add(&kv, "op", "put");
	kv_add(&kv, "path", dir);
	request(w, 1, kv.p, kv.n);
	for (size_t at = 0; at < get->data[1].n;) {
		UNTIL(w, put->credit > 0);
		size_t n = MIN(MIN(put->credit, get->data[1].n - at), (size_t)FRAME_MAX);
		send_data(w, 1, get->data[1].p + at, n);
		put->credit -= n;
		at += n;
		round_of(w);
	}
	send_end(w, 1);
	UNTIL(w, put->over);
	assert_string_equal(result(put, "exit"), "0");
	assert_string_equal(kv_get(put->data[1].p, put->data[1].n, "entries"), "1");
	assert_int_equal(file_read(AT_FDCWD, file, 2 * MIB, &archive, &err), 0);
	assert_int_equal(archive.n, MIB);
	assert_int_equal(archive.p[MIB - 1], (char)((MIB - 1) * 7 >> 3));
	assert_int_equal(dir_remove(AT_FDCWD, dir, NULL, &err), 0);
}

static void files_that_fail(void **state)
{
	struct world *w = *state;
	struct view *v = w->views;

	REQUEST(w, 1, "op=get\0path=/nowhere/x");
	REQUEST(w, 2, "op=get\0path=etc");
	REQUEST(w, 3, "op=put");
	REQUEST(w, 4, "op=put\0path=/nowhere/x");
	UNTIL(w, v[1].over && v[2].over && v[3].over && v[4].over);
	assert_string_equal(result(&v[1], "exit"), "1");
	assert_string_equal(kv_get(v[1].data[2].p, v[1].data[2].n, "code"), "not_found");
	assert_string_equal(kv_get(v[1].data[2].p, v[1].data[2].n, "field"), "path");
	assert_non_null(strstr(result(&v[2], "error"), "path"));
	assert_non_null(strstr(result(&v[3], "error"), "path"));
	assert_string_equal(result(&v[4], "exit"), "1");
	assert_string_equal(kv_get(v[4].data[2].p, v[4].data[2].n, "code"), "not_found");
}

int main(int argc, char *argv[])
{
#define SESSION(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		SESSION(output_and_status),
		SESSION(what_cannot_run),
		SESSION(ten_mebibytes_through_cat),
		SESSION(stdin_is_empty_without_asking),
		SESSION(who_grants_nothing_stops_nobody_else),
		SESSION(a_flood_is_fair),
		SESSION(over_the_window),
		SESSION(terminal),
		SESSION(terminal_keys_and_signals),
		SESSION(signals),
		SESSION(close_kills_the_group),
		SESSION(hello_closes_all),
		SESSION(hang_up_closes_all),
		SESSION(output_that_is_left_open),
		SESSION(output_that_waits_for_credit),
		SESSION(as_many_as_allowed),
		SESSION(who_and_where),
		SESSION(not_while_the_machine_ends),
		SESSION(files_in_and_out),
		SESSION(files_that_fail),
		cmocka_unit_test(users),
		cmocka_unit_test(users_of_no_file),
	};

	if (argc >= 4 && strcmp(argv[1], COPY_COMMAND) == 0)
		return copy_run(argc, argv);
	/* As PID 1 has it: orphans are ours, and SIGPIPE is ignored. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
