/*
 * Between config.c (where values come from) and config_check.c (what they may be): the checks that conf.def names.
 */
#pragma once

#include "common/config.h"
#include "common/field_internal.h"

extern const char *const config_log_names[];

/* Each is the check of a field (common/field.h): 0, or -1 with FCM_INVALID naming `key`. Paths are absolute, of letters,
 * digits and "/._+@-"; "or_none" also takes the empty text; a program may be a name without a folder. */
int check_path(const void *value, const char *key, struct fcm_error *err);
int check_path_or_none(const void *value, const char *key, struct fcm_error *err);
int check_program(const void *value, const char *key, struct fcm_error *err);
int check_program_or_none(const void *value, const char *key, struct fcm_error *err);
int check_user(const void *value, const char *key, struct fcm_error *err);
int check_listen(const void *value, const char *key, struct fcm_error *err);
int check_api_domain(const void *value, const char *key, struct fcm_error *err);
int check_hosts(const void *value, const char *key, struct fcm_error *err);
int check_vmm(const void *value, const char *key, struct fcm_error *err);
int check_mirrors(const void *value, const char *key, struct fcm_error *err);
int check_registry_mirrors(const void *value, const char *key, struct fcm_error *err);
int check_accel(const void *value, const char *key, struct fcm_error *err);
int check_tls(const void *value, const char *key, struct fcm_error *err);
int check_admin(const void *value, const char *key, struct fcm_error *err);
int check_url_or_none(const void *value, const char *key, struct fcm_error *err);
int check_pool(const void *value, const char *key, struct fcm_error *err);
int check_dns(const void *value, const char *key, struct fcm_error *err);
