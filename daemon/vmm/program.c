#include "daemon/vmm/program.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/core/clock.h"
#include "daemon/proc/proc.h"

/* Where programs are that the package manager didn't bring; the PATH of a service may lack it. */
#define LOCAL "/usr/local/bin"

enum { VERSION_MS = 5000 }; /* on a busy host */

static bool is_program(const char *path)
{
	return path[0] == '/' && access(path, X_OK) == 0;
}

int program_find(const char *program, char *ret, size_t size, struct fcm_error *err)
{
	const char *path = getenv("PATH");
	auto_free char *places = xprintf("%s:" LOCAL ":/usr/bin", path ? path : "");

	if (strchr(program, '/')) {
		if (access(program, X_OK) < 0)
			return fcm_fail_errno(err, "%s", program);
		return fcm_copy(ret, size, program) ? 0 : fcm_fail(err, FCM_NO_VMM, "%s: too long", program);
	}
	for (char *s = places; s;) {
		const char *dir = strsep(&s, ":");
		if (fcm_format(ret, size, "%s/%s", dir, program) && is_program(ret))
			return 0;
	}
	*ret = '\0';
	return fcm_fail(err, FCM_NO_VMM, "%s is not installed", program);
}

int program_version(const char *path, const char *front, char *ret, size_t size, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf out = {0};
	struct proc_run run = {
		.argv = PROC_ARGV(path, "--version"), .deadline = clock_in(VERSION_MS), .output_max = 1024};
	size_t n = strlen(front);

	if (proc_run(&run, &out, err) < 0)
		return -1;
	const char *text = out.n && strncmp(out.p, front, n) == 0 ? out.p + n : "";
	size_t digits = strspn(text, "0123456789.");
	if (digits == 0 || digits >= size)
		return fcm_fail(err, FCM_NO_VMM, "%s --version doesn't say \"%s...\"", path, front);
	return fcm_format(ret, size, "%.*s", (int)digits, text) ? 0 : -1;
}

int program_is_static(const char *path, struct fcm_error *err)
{
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	Elf64_Ehdr head;
	Elf64_Phdr part;

	if (fd < 0)
		return fcm_fail_errno(err, "open %s", path);
	if (pread(fd, &head, sizeof head, 0) != sizeof head || memcmp(head.e_ident, ELFMAG, SELFMAG) != 0)
		return fcm_fail(err, FCM_NO_VMM, "%s is no ELF program", path);
	for (unsigned i = 0; i < head.e_phnum; i++)
		if (pread(fd, &part, sizeof part, (off_t)(head.e_phoff + i * sizeof part)) == sizeof part &&
			part.p_type == PT_INTERP)
			return fcm_fail(
				err, FCM_NO_VMM, "%s isn't static, and its jail has no libraries", path);
	return 0;
}
