/*
 * What fcm keeps for ssh: a key of its own at ~/.ssh/fcm_ed25519, and the host keys of VMs, which the daemon made and
 * tells, so that the first connection verifies strictly.
 */
#pragma once

#include "common/core/error.h"
#include "common/field.h"

/* The path of the private key; the caller's. */
char *sshkey_path(void);

/* The path of the known_hosts file, $XDG_CACHE_HOME/fcm/known_hosts or ~/.cache/fcm/known_hosts; the caller's. */
char *sshkey_known_hosts_path(void);

/* The line of the public key, or NULL when there is none yet; the caller's. */
char *sshkey_public_if_any(void);

/* The same, after ssh-keygen(1) made the key if need be. */
int sshkey_public(char **ret, struct fcm_error *err) must_check;

/* Write the host key of a VM (as the API shows it) into known_hosts, under fcm-<id> and <name>.fcm; older lines of
 * either go. FCM_GUEST when the VM has no host key. */
int sshkey_know(const field_json *vm, struct fcm_error *err) must_check;

/* `text` (the file, may be NULL) without the lines that name `alias` or `host`, and with a line for both; the caller's. */
char *sshkey_replace_line(const char *text, const char *alias, const char *host, const char *key);
