/*
 * What the files of checks share: one finding, what several checks ask, and how to put it into words.
 */
#pragma once

#include "common/core/util.h"
#include "daemon/check.h"
#include "daemon/vmm/vmm.h"

/* One finding. */
struct check {
	const char *name;
	enum check_status status;
	char message[256];
	char fix[384]; /* a command or a line of the config; "" only when all is well */
};

/* What several checks ask, found out once. */
struct host {
	const struct fcmd_config *config;
	bool root, serves;		 /* are we root; is this the daemon, or does one run? */
	bool images;			 /* the image store can be asked */
	const struct vmm_driver *driver; /* NULL: none works */
	struct vmm_probe probe;
	struct buf iptables; /* what iptables -S says; empty without iptables */
};

/* Set status and message, or the command that mends it. */
void say(struct check *c, enum check_status status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void mend(struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Run a program that only looks; its output, or false when it isn't there or failed. */
bool look(const char *const argv[], struct buf *out);

/* The program that listens at a TCP port: "" for nobody, "?" when it can't be seen. */
void port_holder(unsigned port, char *ret, size_t size);

/* check_host.c */
void doctor_vmm(const struct host *h, struct check *c);
void doctor_kvm(const struct host *h, struct check *c);
void doctor_versions(const struct host *h, struct check *c);
void doctor_programs(const struct host *h, struct check *c);
void doctor_modules(const struct host *h, struct check *c);
void doctor_tun(const struct host *h, struct check *c);
void doctor_cgroup(const struct host *h, struct check *c);
void doctor_clock(const struct host *h, struct check *c);
void doctor_disk(const struct host *h, struct check *c);
void doctor_assets(const struct host *h, struct check *c);
void doctor_build(const struct host *h, struct check *c);
void doctor_caddy(const struct host *h, struct check *c);
void doctor_remote(const struct host *h, struct check *c);

/* check_net.c */
void doctor_nft(const struct host *h, struct check *c);
void doctor_api_port(const struct host *h, struct check *c);
void doctor_pool(const struct host *h, struct check *c);
void doctor_address(const struct host *h, struct check *c);
void doctor_dns(const struct host *h, struct check *c);
void doctor_forwarding(const struct host *h, struct check *c);
void doctor_rp_filter(const struct host *h, struct check *c);
void doctor_docker(const struct host *h, struct check *c);
void doctor_ufw(const struct host *h, struct check *c);
void doctor_firewalld(const struct host *h, struct check *c);
void doctor_forward(const struct host *h, struct check *c);
void doctor_site_ports(const struct host *h, struct check *c);
