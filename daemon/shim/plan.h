/*
 * What the daemon tells fcm-shim, and how. The shim is started with these descriptors:
 *
 *	0, 1	/dev/null
 *	2	the daemon's stderr, until "ready"
 *	3	the plan: a kv list (common/core/kv.h) of at most SHIM_PLAN_MAX bytes, read to its end
 *	4	the console ring: a regular file, SHIM_RING_HEADER + SHIM_RING bytes, allocated in full
 *	5	the VM's directory: exit, firecracker.pid and console.times are written there
 *	6..	handed on to the VMM at the same number: `fd=6` (below SHIM_FD_END)
 *
 * Keys of the plan, in any order: `id`, `uid`, `gid`, `jail` (a path), `cgroup` (a file of cgroup.h to join by; repeats),
 * `bind=SRC:DST:ro|rw|dev` (repeats), `link=TARGET:LINK` (repeats), `memory=MIB:/DIR` (a tmpfs with the file `memory`, of
 * that size and the uid's, and no room for anything else), `argv=` (repeats), `env=` (repeats: all of the VMM's environment), `group=`
 * (one supplementary gid: that of /dev/kvm), `fd=` (repeats), `nofile`, `net=none` (a network namespace with nothing in
 * it: for a VMM that gets its TAP as a descriptor), `stdin=nonblock` (its end of stdin, too, doesn't block).
 *
 * The shim first writes "ready <vmm pid>\n" to descriptor 3's other end (the plan is a socketpair), or "failed <what>:
 * <why>\n" and ends with 125. It then lives as long as the VMM, and ends last.
 *
 * <dir>/exit is made anew, empty, before the VMM starts, and gets its record, a kv list `status` `signal`, in one
 * write(2) when the VMM has ended. So it is empty while the VMM runs and where the shim was killed.
 */
#pragma once

enum {
	SHIM_PLAN_FD = 3,
	SHIM_RING_FD = 4,
	SHIM_DIR_FD = 5,
	SHIM_FIRST_FD = 6,
	SHIM_FD_END = 64,
	SHIM_PLAN_MAX = 32768,
	SHIM_RING = 1 << 20,
	SHIM_RING_HEADER = 4096,
	SHIM_READERS = 8,  /* at the console at a time; one more is hung up on */
	SHIM_FAILED = 125, /* the shim's own exit status when no VMM was started */
};

#define SHIM_RING_MAGIC 0x31474e49524d4346ull /* "FCMRING1" */

/* The head of the ring file: console byte i is at SHIM_RING_HEADER + i % SHIM_RING, the last SHIM_RING of
 * `total` are there. The file outlives the shim, so the last words of a VM that was killed can be read. */
struct shim_ring {
	unsigned long long magic;
	_Atomic unsigned long long total;
	_Atomic unsigned long long marks; /* ever made; an older shim makes none */
};

/* When the console had its bytes: those from `pos` on at `time`, in seconds since the epoch, until the next mark. At most
 * one a second is made. Mark i is at i % SHIM_MARKS of <dir>/console.times, a file of at most SHIM_MARKS of them. */
#define SHIM_TIMES "console.times"
enum { SHIM_MARKS = 16384 };
struct shim_mark {
	unsigned long long pos;
	long long time;
};
