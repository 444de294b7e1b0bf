#include "images/agent/init.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/core/fileio.h"

#define UNITS "/run/systemd/system/"

/* An empty unit is one that is masked: without udev they would wait for their device, and with it ask for a password that no image
 * should have. Only who may use the daemon reaches the console. */
static const struct {
	const char *path, *text;
} units[] = {
	{UNITS "serial-getty@ttyS0.service", ""},
	{UNITS "console-getty.service", ""},
	{UNITS "multi-user.target.d/fcm-console.conf", "[Unit]\nWants=fcm-console.service\n"},
	{UNITS "fcm-console.service", "[Unit]\n"
				      "Description=Root shell on the serial console (fcm console)\n"
				      "After=systemd-user-sessions.service\n"
				      "[Service]\n"
				      "ExecStart=-/bin/sh -c 'command -v agetty >/dev/null && exec agetty "
				      "--autologin root --wait-cr "
				      "--noclear --local-line ttyS0 115200 vt220; exec /bin/sh -l'\n"
				      "Restart=always\n"
				      "RestartSec=1\n"
				      "UtmpIdentifier=ttyS0\n"
				      "TTYPath=/dev/ttyS0\n"
				      "StandardInput=tty\n"
				      "StandardOutput=tty\n"
				      "StandardError=tty\n"
				      "SendSIGHUP=yes\n"
				      "KillMode=process\n"
				      "IgnoreSIGPIPE=no\n"},
};

static bool leads_to_systemd(const char *file)
{
	char real[PATH_MAX];

	return realpath(file, real) && strcmp(strrchr(real, '/') + 1, "systemd") == 0;
}

/* The first that could be executed, as spawn.c looks for it. */
bool init_is_systemd(const struct spawn *s)
{
	const char *name = s->argv.v[0], *dir = spawn_path(&s->env);

	if (s->user.uid != 0)
		return false;
	if (strchr(name, '/'))
		return leads_to_systemd(name);
	for (size_t n; *dir; dir += n + (dir[n] == ':')) {
		n = strcspn(dir, ":");
		auto_free char *file = xprintf("%.*s/%s", (int)n, n ? dir : ".", name);
		if (access(file, X_OK) == 0)
			return leads_to_systemd(file);
	}
	return false;
}

/* systemd would mount it itself, over the agent's place in it. What was mounted there goes first, for systemd ends by unmounting
 * all that is in its list, and what is hidden can't be. */
static bool mount_run(void)
{
	auto_close int ours =
		open_tree(AT_FDCWD, "/run/fcm", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);

	umount2("/run/fcm", MNT_DETACH); /* of an image for containers, else the next one has it */
	umount2("/run", MNT_DETACH);
	return ours >= 0 && mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755") == 0 &&
	       mkdir("/run/fcm", 0755) == 0 &&
	       move_mount(ours, "", AT_FDCWD, "/run/fcm", MOVE_MOUNT_F_EMPTY_PATH) == 0;
}

bool init_prepare(void)
{
	struct fcm_error err;

	if (!mount_run())
		return false;
	mkdir("/run/systemd", 0755);
	mkdir(UNITS, 0755);
	mkdir(UNITS "multi-user.target.d", 0755);
	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (file_write_atomic(
			    AT_FDCWD, units[i].path, 0644, units[i].text, strlen(units[i].text), &err) < 0) {
			errno = err.sys;
			return false;
		}
	return true;
}
