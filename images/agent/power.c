#include "images/agent/power.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"

const char *power_intent_name(enum power_intent intent)
{
	return intent == POWER_REBOOT ? "reboot" : "poweroff";
}

bool power_intent_parse(const char *s, enum power_intent *ret)
{
	if (s == NULL || (strcmp(s, "poweroff") != 0 && strcmp(s, "reboot") != 0))
		return false;
	*ret = strcmp(s, "reboot") == 0 ? POWER_REBOOT : POWER_OFF;
	return true;
}

static void enter(struct power *p, enum power_phase phase, int64_t ms)
{
	p->phase = phase;
	p->deadline = clock_in(ms);
}

/* kill(-1) from PID 1 reaches everything but PID 1. A stopped process hears SIGTERM only when it goes on. */
static void term_all(void)
{
	if (getpid() != 1)
		return;
	kill(-1, SIGTERM);
	kill(-1, SIGCONT);
	/* An interactive shell ignores SIGTERM, but not that its terminal is gone. */
	ioctl(STDERR_FILENO, TIOCVHANGUP);
}

void power_hold(struct power *p, enum power_intent intent, int64_t grace_ms)
{
	p->intent = intent;
	enter(p, POWER_MAIN, grace_ms);
}

void power_begin(struct power *p, enum power_intent intent, int64_t grace_ms)
{
	if (p->phase > POWER_MAIN) {
		if (p->phase == POWER_TERM)
			p->deadline = MIN(p->deadline, clock_in(grace_ms));
		return;
	}
	p->intent = intent;
	enter(p, POWER_TERM, grace_ms);
	term_all();
}

void power_tick(struct power *p, bool alone, bool told)
{
	bool late = clock_ms() >= p->deadline;

	if (p->phase == POWER_TERM && (alone || late)) {
		enter(p, POWER_KILL, POWER_KILL_MS);
		if (!alone && getpid() == 1)
			kill(-1, SIGKILL);
		late = false;
	}
	if (p->phase == POWER_KILL && (alone || late)) {
		enter(p, POWER_WORD, POWER_WORD_MS);
		late = false;
	}
	if (p->phase == POWER_WORD && (told || late))
		enter(p, POWER_END, 0);
}

int64_t power_deadline(const struct power *p)
{
	return p->phase == POWER_UP ? FCM_FOREVER : p->deadline;
}

static bool is_one_of(const char *s, const char *const *list)
{
	for (; *list; list++)
		if (strcmp(s, *list) == 0)
			return true;
	return false;
}

int power_command_parse(int argc, char *const argv[], enum power_intent *ret, struct fcm_error *err)
{
	static const char *const fine[] = {
		"-h", "-P", "-p", "-H", "-f", "-n", "now", "+0", "--poweroff", "--halt", "--force", NULL};
	static const char *const again[] = {"-r", "--reboot", NULL};
	const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
	enum power_intent intent = strcmp(name, "reboot") == 0 ? POWER_REBOOT : POWER_OFF;

	for (int i = 1; i < argc; i++) {
		if (is_one_of(argv[i], again))
			intent = POWER_REBOOT;
		else if (!is_one_of(argv[i], fine))
			return fcm_fail(err, FCM_USAGE, "%s: '%s' is not known here: it happens at once",
				name, argv[i]);
	}
	*ret = intent;
	return 0;
}

/* Beside a main process, which is PID 1 there and knows nothing of our signals: its namespace ends (mainproc.h), and then we do. */
static int end_namespace(enum power_intent intent)
{
	return reboot(intent == POWER_REBOOT ? RB_AUTOBOOT : RB_POWER_OFF);
}

static bool in_namespace(void)
{
	const ino_t first = 0xeffffffc; /* PROC_PID_INIT_INO of the kernel's include/linux/proc_ns.h */
	struct stat st;

	return stat("/proc/self/ns/pid", &st) == 0 && st.st_ino != first;
}

int power_command(int argc, char *const argv[])
{
	enum power_intent intent;
	struct fcm_error err = {0};

	if (power_command_parse(argc, argv, &intent, &err) == 0 &&
		(in_namespace() ? end_namespace(intent)
				: kill(1, intent == POWER_REBOOT ? SIGTERM : SIGUSR2)) < 0)
		fcm_fail_errno(&err, "ask PID 1");
	if (err.code == FCM_OK)
		return 0;
	fprintf(stderr, "%s\n", err.msg);
	return err.code == FCM_USAGE ? 2 : 1;
}

/* Through the kernel's log: it is on the console when write() returns, and at that level no `quiet` hides it. */
void power_say(enum power_intent intent)
{
	auto_close int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	char line[64];

	fcm_format(line, sizeof line, "<0>fcm-agent: power %s\n", power_intent_name(intent));
	if (fd >= 0)
		(void)!write(fd, line, strlen(line)); /* dprintf() would seek, which is refused here */
}

_Noreturn void power_reset(void)
{
	for (;;) {
		reboot(RB_AUTOBOOT);
		clock_sleep(1000);
	}
}
