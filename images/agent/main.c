/*
 * fcm-agent. As PID 1: the loop, which goes on beside the image's init where it has one. Under any other pid: poweroff, reboot,
 * halt, shutdown, or the placeholder page.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "images/agent/agent.h"
#include "images/agent/copy.h"
#include "images/agent/modules.h"
#include "images/agent/placeholder.h"
#include "images/agent/session.h"

enum {
	PORT_WAIT_MS = 10,	  /* between two looks for the port: its driver needs a moment */
	PORT_WAIT_LONG_MS = 1000, /* the same once the machine is PORT_PATIENCE_MS old: there is none */
	PORT_PATIENCE_MS = 15000,
};

static void read_boot_id(struct agent *a)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error err;

	if (file_read(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64, &text, &err) == 0)
		(void)fcm_format(a->boot_id, sizeof a->boot_id, "%.*s", (int)strcspn(text.p, "\n"), text.p);
}

/* All signals that PID 1 acts on come through one descriptor. Ctrl-alt-del becomes SIGINT. */
static int open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	reboot(RB_DISABLE_CAD);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* The image's init has ended everything. Other signals come from whoever wants to end a process, and aren't for us. */
static void serve_init(struct agent *a, uint32_t signal)
{
	if (signal != SIGUSR1 && signal != SIGUSR2)
		return;
	a->init_ended = true;
	session_power(a, signal == SIGUSR1 ? POWER_REBOOT : POWER_OFF, 0);
}

/* SIGUSR1 is busybox's halt, SIGUSR2 its poweroff, SIGTERM its reboot. */
static void serve_signals(struct agent *a, int fd)
{
	struct signalfd_siginfo s;

	while (read(fd, &s, sizeof s) == sizeof s) {
		if (s.ssi_signo == SIGCHLD)
			continue;
		if (a->yielded)
			serve_init(a, s.ssi_signo);
		else
			session_power(a, s.ssi_signo == SIGTERM ? POWER_REBOOT : POWER_OFF, POWER_GRACE_MS);
	}
}

/* Beside an init only that can tell that nobody else runs. Where it is too late with that, kill(-1) reaches everything but us
 * and PID 1. */
static void tick_power(struct agent *a, bool no_child)
{
	bool waited = a->power.phase == POWER_TERM;

	power_tick(&a->power, a->yielded ? a->init_ended : no_child,
		channel_told(&a->channel) && mainproc_told(&a->main));
	if (a->yielded && !a->init_ended && waited && a->power.phase == POWER_KILL)
		kill(-1, SIGKILL);
}

static void look_for_port(struct agent *a, int64_t *next)
{
	if (clock_ms() < *next)
		return;
	if (channel_open(&a->channel))
		*next = FCM_FOREVER;
	else
		*next = clock_in(clock_ms() < PORT_PATIENCE_MS ? PORT_WAIT_MS : PORT_WAIT_LONG_MS);
}

static int64_t deadline(const struct agent *a)
{
	int64_t next = MIN(channel_deadline(&a->channel), power_deadline(&a->power));

	next = MIN(MIN(next, mainproc_deadline(&a->main)), exec_deadline(&a->execs));
	return MIN(next, freeze_deadline(&a->freezer));
}

static void loop(struct agent *a, int signals)
{
	enum {
		FD_SIGNALS,
		FD_CHANNEL,
		FD_LISTEN,
		FD_FREEZE,
		FD_MAIN = FD_FREEZE + FREEZE_FDS,
		FD_EXEC = FD_MAIN + MAIN_FDS
	};
	static struct pollfd fds[FD_EXEC + EXEC_FDS];
	int64_t next_look = a->channel.listen_fd >= 0 ? FCM_FOREVER : 0;

	while (a->power.phase != POWER_END) {
		look_for_port(a, &next_look);
		short events = channel_events(&a->channel);
		fds[FD_SIGNALS] = (struct pollfd){.fd = signals, .events = POLLIN};
		fds[FD_CHANNEL] = (struct pollfd){.fd = events ? a->channel.fd : -1, .events = events};
		fds[FD_LISTEN] = (struct pollfd){.fd = a->channel.listen_fd, .events = POLLIN};
		freeze_poll(&a->freezer, fds + FD_FREEZE);
		mainproc_poll(&a->main, fds + FD_MAIN);
		nfds_t n = FD_EXEC + exec_poll(&a->execs, &a->channel, fds + FD_EXEC);

		poll(fds, n, clock_left(MIN(deadline(a), next_look)));
		if (fds[FD_CHANNEL].revents)
			channel_serve(&a->channel, fds[FD_CHANNEL].revents);
		if (fds[FD_LISTEN].revents)
			channel_accept(&a->channel);
		exec_serve(&a->execs, &a->channel, fds + FD_EXEC);
		mainproc_serve(&a->main, fds + FD_MAIN);
		channel_tick(&a->channel);
		session_serve(a);
		serve_signals(a, signals);
		bool no_child = exec_reap(&a->execs);
		session_freeze(a);
		exec_tick(&a->execs, &a->channel);
		session_main(a);
		tick_power(a, no_child);
	}
}

/* On Firecracker; a port of QEMU's is found by the loop, since it appears when its driver likes. */
static void open_vsock(struct agent *a)
{
	if (!channel_is_vsock())
		return;
	modules_load(a->modules, MODULES_VSOCK);
	if (!channel_listen(&a->channel))
		fprintf(stderr, "fcm-agent: vsock: %s\n", strerror(errno));
}

/* Of all that the guest runs: what systemd gives a service (its NEWS of version 240), for the kernel's 4096 are few for a server. */
static void allow_files(void)
{
	const struct rlimit files = {.rlim_cur = 1024, .rlim_max = 524288};

	(void)setrlimit(RLIMIT_NOFILE, &files);
}

static _Noreturn void run_pid1(char *argv0)
{
	struct agent a = {.channel = {.fd = -1, .listen_fd = -1},
		.root = {.disk_fd = -1, .cgroup_fd = -1},
		.argv0 = argv0};
	int signals = open_signals();

	a.execs.main = &a.main;
	allow_files();
	mount_early();
	a.modules = modules_open();
	modules_load(a.modules, MODULES_ALL);
	open_vsock(&a);
	read_boot_id(&a);
	freeze_init(&a.freezer, -1);
	loop(&a, signals);
	volume_finish(&a.volumes);
	mount_finish(&a.root);
	channel_close(&a.channel);
	mainproc_say(&a.main);
	power_say(a.power.intent);
	power_reset();
}

int main(int argc, char *argv[])
{
	if (getpid() == 1)
		run_pid1(argv[0]);
	if (argc == 3 && strcmp(argv[1], "placeholder") == 0)
		return placeholder_run(argv[2]);
	if (argc == 5 && strcmp(argv[1], COPY_COMMAND) == 0 && strcmp(argv[2], "fill") == 0)
		return volume_fill_run(argv[3], argv[4]);
	if (argc >= 4 && strcmp(argv[1], COPY_COMMAND) == 0)
		return copy_run(argc, argv);
	return power_command(argc, argv);
}
