/*
 * fcm-preload.so: between a QEMU that begins with a saved machine and its C library (ld.so(8), LD_PRELOAD).
 *
 * QEMU maps the guest's memory from a file. One that many clones begin with must stay as it is: the jail shows it read-only,
 * and a clone's changes are its own. No options say that. `share=off` opens the file for writing all the same; with
 * `readonly=on,rom=off`, since 8.2, it doesn't, but then free page reporting gives nothing back and complains on the console
 * for each page. So QEMU is told `share=on`, and here its file is opened for reading and mapped privately, and where it punches
 * a hole it gets new memory in that place, which is zeros, as it expects.
 *
 * Without this library QEMU doesn't start, for it finds the file read-only.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/vmm/vmm.h"

static int memory = -1; /* QEMU's descriptor of the file, which it keeps */
static char *mapped;	/* and where it has it, from its begin */

int open64(const char *file, int oflag, ...)
{
	va_list ap;

	if (strcmp(file, VMM_SAVED VMM_MEMORY) == 0)
		return memory = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDONLY | O_CLOEXEC);
	va_start(ap, oflag);
	int mode = oflag & (O_CREAT | __O_TMPFILE) ? va_arg(ap, int) : 0;
	va_end(ap);
	return (int)syscall(SYS_openat, AT_FDCWD, file, oflag, mode);
}

/* What open64() is to a program that was built with _FORTIFY_SOURCE. */
int __open64_2(const char *file, int oflag);
int __open64_2(const char *file, int oflag)
{
	return open64(file, oflag);
}

void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t offset)
{
	bool ours = fd >= 0 && fd == memory;

	if (ours)
		flags = (flags & ~MAP_TYPE) | MAP_PRIVATE;
	void *p = (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, offset);
	if (ours && offset == 0 && p != MAP_FAILED)
		mapped = p;
	return p;
}

int fallocate64(int fd, int mode, off64_t offset, off64_t len)
{
	const int flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

	if (fd < 0 || fd != memory)
		return (int)syscall(SYS_fallocate, fd, mode, offset, len);
	if (mapped == NULL || !(mode & FALLOC_FL_PUNCH_HOLE)) {
		errno = EOPNOTSUPP;
		return -1;
	}
	void *p = mmap64(mapped + offset, (size_t)len, PROT_READ | PROT_WRITE, flags, -1, 0);
	return p == MAP_FAILED ? -1 : 0;
}
