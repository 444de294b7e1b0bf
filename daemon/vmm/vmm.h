/*
 * What the engine asks of a virtual machine monitor. A driver is a table of functions; the engine asks its capabilities
 * and never its name. `plan` is pure; every call that talks takes a deadline (clock_ms()); `attach` serves new and
 * adopted VMs alike.
 *
 * The VMM runs in the jail that fcm-shim makes. Paths inside are constant (VMM_*), so that a snapshot of one VM
 * loads for another without rewriting a path.
 */
#pragma once

#include <netinet/in.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/core/error.h"
#include "common/core/names.h"
#include "common/core/util.h"
#include "daemon/proc/proc.h"

/* Inside the jail. */
#define VMM_KERNEL "/vmlinux"
#define VMM_INITRD "/initrd"
#define VMM_IMAGE "/image.ext4"	     /* read-only */
#define VMM_DISK "/rootfs.img"	     /* the VM's own, read-write */
#define VMM_VOLUME "/volume%zu.ext4" /* from 0 */
#define VMM_RUN "/run"		     /* sockets; <id>/jail/run on the host */
#define VMM_CONTROL "vmm.sock"	     /* QMP or the Firecracker API, below VMM_RUN */
#define VMM_AGENT "agent.sock"	     /* the agent's channel, below VMM_RUN */
#define VMM_CONSOLE "console.sock"   /* the shim's attach socket, below VMM_RUN */
#define VMM_SAVED "/saved/"	     /* files of the machine that it begins with, read-only */
#define VMM_RAM_DIR "/ram"
#define VMM_RAM VMM_RAM_DIR "/memory" /* the guest's memory, where the VMM has it in a file */

/* A saved machine: files in one directory. */
#define VMM_STATE "state"   /* its devices; without VMM_MEMORY also the memory */
#define VMM_MEMORY "memory" /* who loads it maps it privately, so clones share its pages */

enum { VMM_VOLUMES = 8 };

enum vmm_accel { VMM_TCG, VMM_KVM };

enum vmm_cap {
	VMM_CAP_SOFT_OFF = 1 << 0, /* can ask the guest to shut down without the agent */
	VMM_CAP_TCG = 1 << 1,	   /* works without KVM */
	VMM_CAP_SAVE = 1 << 2,	   /* can save a machine and load it */
};

/* All that a driver needs to know of a VM. Borrowed; paths are the host's. */
struct vmm_config {
	struct vm_id id;
	struct vm_name name;
	unsigned vcpus;
	unsigned mem_mib;
	struct in_addr ip, gateway;
	unsigned prefix; /* of the pool: the guest's netmask */
	uint8_t mac[6];
	const char *binary;  /* the VMM's program */
	const char *version; /* and its version, as probe() found it */
	const char *kernel;  /* path of vmlinux */
	const char *initrd;  /* path of the initramfs */
	const char *image;   /* path of the image's ext4 */
	const char *disk;    /* path of rootfs.img */
	const char *run;     /* path of <id>/jail/run */
	struct {
		const char *path;
		bool read_only;
	} volumes[VMM_VOLUMES]; /* drives behind the disk, in this order */
	size_t n_volumes;
	/* What passes to and from the VM's own disk, and each of its volumes; 0: no limit. The image has none: all VMs share
	 * it in the host's memory. */
	unsigned disk_mib_per_second, disk_ops_per_second;
	enum vmm_accel accel;
	uint64_t tsc_khz; /* of the host, for the guest's command line */

	/* The directory of a saved machine, with which the VMM begins instead of booting; or NULL. Driver, version, accel, vcpus,
	 * mem_mib, and the volumes' number, order and read_only must be those of the VM that was saved, and image, disk and
	 * volumes hold what they held then, for the guest goes on with what it remembers of them. It also goes on with the MAC
	 * and the address of that VM. */
	const char *saved;
	struct vm_id saved_id; /* of the VM that was saved: this one, or one that it is a clone of */
	bool saved_memory;     /* VMM_MEMORY is there */
	const char *preload;   /* vmm_preload() */
};

/* How to start the VMM; filled by plan(), freed by vmm_plan_done(). */
struct vmm_plan {
	struct strv argv;    /* argv[0] is a path inside the jail */
	struct strv binds;   /* "SRC:DST:ro|rw|dev": what the jail shows (daemon/shim/plan.h) */
	struct strv links;   /* "TARGET:LINK": symbolic links made in the jail ("usr/lib:/lib") */
	struct strv env;     /* "NAME=VALUE" */
	unsigned memory_mib; /* the size of VMM_RAM, which is the VMM's to write; 0: there is none */
	int tap_fd;	     /* the number at which the VMM expects the TAP, or -1 when it opens it by name */
	bool stdin_nonblock; /* it reads its stdin also when nothing is there */
};
void vmm_plan_done(struct vmm_plan *plan);

/* For drivers: show `src` of the host as `dst`; and the files of a VM, the same for each driver. */
void vmm_bind(struct vmm_plan *plan, const char *src, const char *dst, const char *mode);
void vmm_bind_files(struct vmm_plan *plan, const struct vmm_config *config);

/* For drivers: show the file `name` of config->saved below VMM_SAVED, read-only. */
void vmm_bind_saved(struct vmm_plan *plan, const struct vmm_config *config, const char *name);

/* The library of ours that is put before QEMU's (daemon/shim/preload.c): it lies beside the program fcm-shim at that path. The
 * caller's. */
char *vmm_preload(const char *shim);

/* What works here. */
struct vmm_probe {
	char binary[256]; /* path of the program that was found, or "" */
	char version[32];
	enum vmm_accel accel; /* the best that works */
	char kvm[128];	      /* what KVM was found to be like, in a line; "": nobody looked */
	char reason[160];     /* why nothing better; "": this is the best */
};

/* Of whom and whereto save() writes. */
struct vmm_saving {
	const struct proc_id *process; /* the VMM's */
	int run_dirfd;
	int dirfd;	  /* of the new files: a directory that only root may enter (0700) */
	unsigned mem_mib; /* the guest's memory */
};

/* One live VMM. */
struct vmm;

struct vmm_driver {
	const char *name; /* "qemu", "firecracker"; also the config's key for its program */
	unsigned caps;

	/* Find `program` (a path, or a name that is looked for in PATH) and ask which version it is: binary and version of
	 * *ret, as far as they were found out. FCM_NO_VMM when it is none that we can drive. */
	int (*probe)(const char *program, struct vmm_probe *ret, struct fcm_error *err);

	/* Pure: what to start for this VM. */
	int (*plan)(const struct vmm_config *config, struct vmm_plan *ret, struct fcm_error *err);

	/* Connect to the control socket in directory `run` and shake hands. Retries until the deadline while the socket
	 * isn't there, because a new VMM needs a moment. */
	int (*attach)(int run_dirfd, int64_t deadline, struct vmm **ret, struct fcm_error *err);

	/* Tell the VMM what its command line did not (Firecracker's API calls; nothing for QEMU). */
	int (*configure)(
		struct vmm *vmm, const struct vmm_config *config, int64_t deadline, struct fcm_error *err);

	/* Let the virtual CPUs run for the first time. */
	int (*boot)(struct vmm *vmm, int64_t deadline, struct fcm_error *err);

	int (*pause)(struct vmm *vmm, int64_t deadline, struct fcm_error *err);
	int (*resume)(struct vmm *vmm, int64_t deadline, struct fcm_error *err);

	/* Write the machine, which is paused and stays so, to new files. They are root's, nobody may write them, and the VMM,
	 * whatever it is, can't; they aren't on the disk yet (fsync(2)). With an error none is left. The run directory holds nothing
	 * of them in either case. A machine that was saved isn't saved again before it was resumed. The channel of its agent is void
	 * from now on: a new one is opened after resume(). FCM_NO_SPACE; FCM_TIMEOUT, after which the VMM may be good for nothing;
	 * FCM_VMM. */
	int (*save)(struct vmm *vmm, const struct vmm_saving *what, int64_t deadline, struct fcm_error *err);

	/* In place of configure() and boot() for a config with `saved`: take in that machine. It is paused then, and resume()
	 * lets it run. Its files may be removed afterwards, but not written to. A VMM that couldn't ends, or is of no more use. */
	int (*load)(
		struct vmm *vmm, const struct vmm_config *config, int64_t deadline, struct fcm_error *err);

	/* Ask the guest to shut down by what the machine has (ctrl-alt-del). */
	int (*soft_off)(struct vmm *vmm, int64_t deadline, struct fcm_error *err);

	/* A new connection to the agent's channel: a non-blocking descriptor, the caller's. FCM_TIMEOUT when the VMM, or
	 * with Firecracker the guest, isn't there by the deadline; it may be tried again. */
	int (*channel)(int run_dirfd, int64_t deadline, struct fcm_error *err);

	/* Forget the connection; the VMM lives on. NULL-safe. */
	void (*free)(struct vmm *vmm);

	/* The calls that configure() and boot() would make, or load() and resume(), a line each, for --dry-run. */
	void (*describe)(const struct vmm_config *config, struct strv *ret);
};

extern const struct vmm_driver vmm_firecracker, vmm_qemu;

/* The drivers that were built in, best first, ended by NULL. */
extern const struct vmm_driver *const vmm_drivers[];

/* The driver called `name`, or NULL. */
const struct vmm_driver *vmm_driver_find(const char *name);

struct fcmd_config;

/* The driver for new VMs: the one that the config names, else the best that works here with the accelerator that the
 * config asks for. A program that the config names without a folder is looked for in <state>/<driver>/current, where
 * fcm assets download puts it, then as program_find() does. ret->reason says why none better, or, with NULL, why none.
 * KVM is looked at once, if a driver was found: that takes 10 ms where it works, else a second or more. */
const struct vmm_driver *vmm_choose(const struct fcmd_config *config, struct vmm_probe *ret);
