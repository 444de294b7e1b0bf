/*
 * The program of a VMM: where it is and which version.
 */
#pragma once

#include <stddef.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* The absolute path of `program`: itself when it holds a slash, else what PATH and then /usr/local/bin lead to. It can be
 * executed. FCM_NO_VMM: "firecracker is not installed". */
int program_find(const char *program, char *ret, size_t size, struct fcm_error *err) must_check;

/* The version that `PATH --version` prints behind `front`: digits and dots. FCM_NO_VMM when it prints something else. */
int program_version(
	const char *path, const char *front, char *ret, size_t size, struct fcm_error *err) must_check;

/* Can it run in a jail that shows no other file: an ELF program without an interpreter (elf(5), PT_INTERP)? FCM_NO_VMM. */
int program_is_static(const char *path, struct fcm_error *err) must_check;
