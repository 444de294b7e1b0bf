/*
 * The daemon's configuration: every path, address, pool, default and limit. common/conf.def lists the keys.
 *
 * A value comes from the built-in default, then /etc/fcm/fcmd.conf, then `--set key=value`, the later ones winning;
 * there are no environment variables. The file is read by libinih: `key = value` lines, comments behind '#' or ';' at
 * the beginning of a line and ';' behind a value, the defaults of a VM in the section [defaults]. Lists are separated by
 * commas or spaces, sizes take suffixes (512, 2g; MiB without one).
 */
#pragma once

#include "common/core/log.h"
#include "common/core/names.h"
#include "common/model.h"

#define CONFIG_FILE "/etc/fcm/fcmd.conf"

enum { CONFIG_KEYS_MAX = 64 };

enum config_source { CONFIG_BUILTIN, CONFIG_FROM_FILE, CONFIG_FROM_OPTION };

struct config_origin {
	enum config_source source;
	unsigned line; /* of the file */
};

enum config_log { CONFIG_LOG_ERROR, CONFIG_LOG_WARN, CONFIG_LOG_INFO, CONFIG_LOG_DEBUG };

struct fcmd_config {
	char listen[64], socket[256], socket_group[33];
	bool insecure_bind;
	struct strv allowed_hosts;
	uint32_t max_connections, max_anonymous, header_seconds;
	enum config_log log_level;
	char state_dir[256], run_dir[256], shim[256], oci[256];
	uint32_t disk_reserve_mib;
	char vmm[16], firecracker[256], qemu[256], accel[8];
	struct strv assets_mirror;
	uint32_t disk_mib_per_second, disk_ops_per_second;
	uint32_t uid_base, max_vms, max_volumes, mem_overcommit_percent, reserve_mib;
	uint32_t starts_at_once, boot_seconds, stop_seconds, clock_seconds;
	char pool_text[24];
	struct ip_net pool;	/* after config_check() */
	struct in_addr gateway; /* never 0 after config_check() */
	uint32_t first_address, last_address;
	struct strv dns;
	struct in_addr public_ip; /* 0: ask the kernel */
	struct in_addr publish_address;
	struct strv insecure_registries, registry_mirrors;
	char domain[254], api_domain[254];
	/* After config_check(): the unix socket that Caddy has for the API, when there is an api_domain. */
	char proxy_socket[272];
	char caddy[256], caddyfile[256], caddy_user[33], caddy_admin[128], acme_ca[256], tls[16];
	struct vm_defaults defaults;

	struct config_origin origin[CONFIG_KEYS_MAX]; /* one a key, in the order of config_fields */
	char file[256];				      /* what was read, or "" */
};

extern const struct field config_fields[];

/* The port of `listen`, 0 without one. */
uint16_t config_api_port(const struct fcmd_config *c);

/* Is `listen` an address that others than this host may reach? */
bool config_listens_abroad(const struct fcmd_config *c);

/* Every key at its default. */
void config_init(struct fcmd_config *ret);

/* Read a file. A missing one is fine unless `must_exist`. FCM_CONFIG with file and line: "fcmd.conf:3: poool: unknown
 * key". */
int config_load(struct fcmd_config *c, const char *path, bool must_exist, struct fcm_error *err) must_check;

/* The same from memory; `path` is what messages call it. */
int config_parse(struct fcmd_config *c, const char *path, const char *text, size_t n,
	struct fcm_error *err) must_check;

/* --set key=value ("defaults.cpus=2"). A later one of the same key wins. FCM_USAGE. */
int config_set(struct fcmd_config *c, const char *assignment, struct fcm_error *err) must_check;

/* Check what concerns several keys and fill in pool and gateway. Pure. FCM_CONFIG naming the key. */
int config_check(struct fcmd_config *c, struct fcm_error *err) must_check;

/* The level for log_set_level(). */
enum log_level config_log_level(const struct fcmd_config *c);

/* Append "key = value ; where it came from", a line each: `fcmd --print-config`. The file reader takes these lines. */
void config_print(const struct fcmd_config *c, struct buf *ret);

/* Append all keys with their documentation, as a config file in which every line is a comment: the example file
 * and what the man page says. */
void config_document(struct buf *ret);

/* Free what it owns. */
void config_done(struct fcmd_config *c);
