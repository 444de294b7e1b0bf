/*
 * What the rows of model.c check beyond type and range: each is the `check` of a struct field (common/field.h), and says
 * FCM_INVALID. What `value` points to is of the type that stands above them.
 */
#pragma once

#include "common/core/error.h"

/* char[] */
int model_check_id(const void *value, const char *key, struct fcm_error *err);
int model_check_name(const void *value, const char *key, struct fcm_error *err);
int model_check_name_or_none(const void *value, const char *key, struct fcm_error *err);
int model_check_asset_or_none(const void *value, const char *key, struct fcm_error *err);
int model_check_image_id(const void *value, const char *key, struct fcm_error *err);
int model_check_host_key(const void *value, const char *key, struct fcm_error *err);
int model_check_hostname(const void *value, const char *key, struct fcm_error *err);
int model_check_id_or_none(const void *value, const char *key, struct fcm_error *err);
int model_check_line(const void *value, const char *key, struct fcm_error *err);
int model_check_restart(const void *value, const char *key, struct fcm_error *err);
int model_check_who(const void *value, const char *key, struct fcm_error *err);

/* char * */
int model_check_workdir(const void *value, const char *key, struct fcm_error *err);
int model_check_user(const void *value, const char *key, struct fcm_error *err);
int model_check_url(const void *value, const char *key, struct fcm_error *err);
int model_check_platform(const void *value, const char *key, struct fcm_error *err);
int model_check_registry(const void *value, const char *key, struct fcm_error *err);
int model_check_pattern(const void *value, const char *key, struct fcm_error *err);

/* struct strv */
int model_check_env(const void *value, const char *key, struct fcm_error *err);
int model_check_env_names(const void *value, const char *key, struct fcm_error *err);
int model_check_words(const void *value, const char *key, struct fcm_error *err);
int model_check_args(const void *value, const char *key, struct fcm_error *err);
int model_check_dirs(const void *value, const char *key, struct fcm_error *err);
int model_check_labels(const void *value, const char *key, struct fcm_error *err);
int model_check_selector(const void *value, const char *key, struct fcm_error *err);
int model_check_keys(const void *value, const char *key, struct fcm_error *err);
int model_check_volumes(const void *value, const char *key, struct fcm_error *err);
int model_check_publish(const void *value, const char *key, struct fcm_error *err);
int model_check_unpublish(const void *value, const char *key, struct fcm_error *err);

/* struct ready_spec, struct health_spec */
int model_check_ready(const void *value, const char *key, struct fcm_error *err);
int model_check_health(const void *value, const char *key, struct fcm_error *err);
