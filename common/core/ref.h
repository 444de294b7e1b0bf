/*
 * References to images, as docker reads them (distribution/reference, its grammar in the package's documentation):
 *
 *	[DOMAIN/]PATH[:TAG][@sha256:HEX]
 *
 * A first part with a dot or a colon, or "localhost", is the domain; without one it is docker.io, and a PATH of one part is
 * then below library/. A reference to an image that was made here has the domain "localhost" and is shown without it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/core/error.h"
#include "common/core/util.h"

#define REF_HUB "docker.io"
#define REF_LOCAL "localhost"

/* Which image, whatever it is called: the sha256 of its configuration, or of its file system where it has none. */
struct image_id {
	char s[65]; /* 64 hex digits, or "": none */
};

enum { REF_TEXT = 640 }; /* of a whole one, with its NUL: longer ones are refused */

struct ref {
	char domain[256]; /* "docker.io", "localhost", "registry.example:5000" */
	char path[256];	  /* "library/nginx"; path components of [a-z0-9] with . _ __ - between */
	char tag[129];	  /* [A-Za-z0-9_][A-Za-z0-9._-]{0,127}, or "" */
	char digest[65];  /* 64 hex digits of a sha256, or "" */
};

/* Read one. Without a tag and a digest the tag is "latest". -1 with FCM_INVALID naming `field`. */
int ref_parse(const char *s, const char *field, struct ref *ret, struct fcm_error *err) must_check;

/* The same image as one that was made here: "base" of docker.io/library is localhost/base. False when it has a domain of its
 * own or a longer path. */
bool ref_local(const struct ref *ref, struct ref *ret);

struct ref_text {
	char s[REF_TEXT];
};

/* In full ("docker.io/library/nginx:latest"), and as people write it ("nginx:latest"; "base:latest" of localhost). Both read
 * again, the first gives the same reference. */
struct ref_text ref_full(const struct ref *ref);
struct ref_text ref_short(const struct ref *ref);

/* Only the name, without tag and digest, as people write it. */
struct ref_text ref_name(const struct ref *ref);

/* Is s a registry that a reference may name, HOST or HOST:PORT with a dot or a colon in it? */
bool ref_registry_valid(const char *s);

/* Is s 64 hex digits (small letters)? With `prefix` behind "sha256:". */
bool ref_digest_valid(const char *s, bool prefix);
