#include "common/core/ref.h"

#include <string.h>

#include "common/core/names.h"

#define LOWER "abcdefghijklmnopqrstuvwxyz"
#define DIGITS "0123456789"
#define ALNUM "ABCDEFGHIJKLMNOPQRSTUVWXYZ" LOWER DIGITS

enum { HEX = 64 };

bool ref_digest_valid(const char *s, bool prefix)
{
	static const char sha256[] = "sha256:";

	if (prefix) {
		if (strncmp(s, sha256, sizeof sha256 - 1) != 0)
			return false;
		s += sizeof sha256 - 1;
	}
	return strspn(s, DIGITS "abcdef") == HEX && s[HEX] == '\0';
}

/* Words of [a-z0-9]+ with one of . _ __ or dashes between two of them. */
static bool component_valid(const char *s, size_t n)
{
	size_t i = 0;

	for (;;) {
		size_t word = MIN(strspn(s + i, LOWER DIGITS), n - i);
		i += word;
		if (word == 0 || i == n)
			return word > 0;
		size_t gap = MIN(strspn(s + i, "-"), n - i);
		if (gap == 0)
			gap = s[i] == '.' ? 1 : MIN(MIN(strspn(s + i, "_"), (size_t)2), n - i);
		if (gap == 0)
			return false;
		i += gap;
	}
}

static bool path_valid(const char *s)
{
	for (;;) {
		size_t n = strcspn(s, "/");
		if (!component_valid(s, n))
			return false;
		if (s[n] == '\0')
			return true;
		s += n + 1;
	}
}

static bool tag_valid(const char *s)
{
	return *s && strchr(".-", *s) == NULL && s[strspn(s, ALNUM "._-")] == '\0';
}

/* A host name or an IPv4 address, and a port. (Brackets of IPv6 aren't taken: they would have to be escaped everywhere.) */
static bool domain_valid(const char *s)
{
	size_t n = strcspn(s, ":");
	int64_t port;

	if (n == 0 || strspn(s, ALNUM ".-") != n || strchr(".-", s[0]) || strchr(".-", s[n - 1]) ||
		strstr(s, ".."))
		return false;
	return s[n] == '\0' || fcm_parse_i64(s + n + 1, 1, 65535, &port);
}

static bool is_domain(const char *s, size_t n)
{
	return memchr(s, '.', n) || memchr(s, ':', n) ||
	       (n == strlen(REF_LOCAL) && memcmp(s, REF_LOCAL, n) == 0);
}

bool ref_registry_valid(const char *s)
{
	return domain_valid(s) && is_domain(s, strlen(s)) && strcmp(s, REF_LOCAL) != 0;
}

static int fail(const char *s, const char *field, const char *why, struct fcm_error *err)
{
	char shown[80];

	(void)fcm_quote(shown, sizeof shown, s);
	fcm_fail_field(
		err, FCM_INVALID, field, "%s: '%s' is no reference to an image: %s", field, shown, why);
	return fcm_hint(
		err, "such as nginx, nginx:1.25, ghcr.io/owner/name:tag, or name@sha256:<64 hex digits>");
}

/* Cut what is behind the last `mark` off the end of `text`; NULL when there is none. */
static char *cut(char *text, char mark)
{
	char *p = strrchr(text, mark);

	if (p)
		*p++ = '\0';
	return p;
}

/* Tag and digest, off the end. NULL, or why not. */
static const char *read_end(char *text, struct ref *r)
{
	char *digest = cut(text, '@'), *slash = strrchr(text, '/');
	char *tag = cut(slash ? slash : text, ':');

	if (digest && !ref_digest_valid(digest, true))
		return "the digest is not sha256: and 64 hex digits";
	if (tag && (!tag_valid(tag) || !fcm_copy(r->tag, sizeof r->tag, tag)))
		return "the tag is not up to 128 of letters, digits, '.', '_', '-'";
	if (digest)
		(void)fcm_copy(r->digest, sizeof r->digest, digest + strlen("sha256:"));
	else if (tag == NULL)
		(void)fcm_copy(r->tag, sizeof r->tag, "latest");
	return NULL;
}

static const char *read_name(const char *text, struct ref *r)
{
	static const char index[] = "index.docker.io"; /* what docker once called it */
	const char *slash = strchr(text, '/'), *domain = REF_HUB;
	size_t n = slash ? (size_t)(slash - text) : 0, domain_n = strlen(REF_HUB);

	if (slash && is_domain(text, n)) {
		if (n != sizeof index - 1 || memcmp(text, index, n) != 0)
			domain = text, domain_n = n;
		text = slash + 1;
	}
	if (!fcm_format(r->domain, sizeof r->domain, "%.*s", (int)domain_n, domain))
		return "its domain is too long";
	bool library = strcmp(r->domain, REF_HUB) == 0 && strchr(text, '/') == NULL;
	if (!fcm_format(r->path, sizeof r->path, "%s%s", library ? "library/" : "", text))
		return "its name is too long";
	if (!domain_valid(r->domain))
		return "its domain is no host name with maybe a port";
	return path_valid(r->path)
		       ? NULL
		       : "its name is not small letters and digits, with '.', '_', '-' and '/' between";
}

int ref_parse(const char *s, const char *field, struct ref *ret, struct fcm_error *err)
{
	char text[REF_TEXT];
	struct ref r = {0};
	const char *why = s[0] == '\0' ? "it is empty" : NULL;

	if (!fcm_copy(text, sizeof text, s))
		why = "it is too long";
	if (why == NULL)
		why = read_end(text, &r);
	if (why == NULL)
		why = read_name(text, &r);
	if (why)
		return fail(s, field, why, err);
	*ret = r;
	return 0;
}

static const char *library_name(const struct ref *ref)
{
	static const char library[] = "library/";

	if (strcmp(ref->domain, REF_HUB) != 0 || strncmp(ref->path, library, sizeof library - 1) != 0)
		return NULL;
	const char *name = ref->path + sizeof library - 1;
	return strchr(name, '/') ? NULL : name;
}

bool ref_local(const struct ref *ref, struct ref *ret)
{
	const char *name = library_name(ref);

	if (name == NULL)
		return false;
	*ret = *ref;
	(void)fcm_copy(ret->domain, sizeof ret->domain, REF_LOCAL);
	memmove(ret->path, ret->path + (name - ref->path), strlen(name) + 1);
	return true;
}

static struct ref_text write_ref(const char *domain, const char *path, const struct ref *end)
{
	struct ref_text t = {0};

	fcm_format(t.s, sizeof t.s, "%s%s%s%s%s%s%s", domain, *domain ? "/" : "", path,
		end && end->tag[0] ? ":" : "", end ? end->tag : "", end && end->digest[0] ? "@sha256:" : "",
		end ? end->digest : "");
	return t;
}

struct ref_text ref_full(const struct ref *ref)
{
	return write_ref(ref->domain, ref->path, ref);
}

static struct ref_text shortened(const struct ref *ref, const struct ref *end)
{
	const char *name = library_name(ref);

	if (name)
		return write_ref("", name, end);
	bool local = strcmp(ref->domain, REF_LOCAL) == 0 && strchr(ref->path, '/') == NULL;
	bool hub = strcmp(ref->domain, REF_HUB) == 0;
	return write_ref(local || hub ? "" : ref->domain, ref->path, end);
}

struct ref_text ref_short(const struct ref *ref)
{
	return shortened(ref, ref);
}

struct ref_text ref_name(const struct ref *ref)
{
	return shortened(ref, NULL);
}
