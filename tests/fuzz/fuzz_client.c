/* What the client makes of foreign bytes: a guest's console, a daemon's answer, a known_hosts file, a URL. */
#include <stdlib.h>
#include <string.h>

#include "client/api.h"
#include "client/sshkey.h"
#include "client/term.h"
#include "client/where.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void fuzz_console(const uint8_t *data, size_t n)
{
	struct guest_text t = {.nheld = 0};
	struct buf out = {0};

	for (size_t at = 0, piece = n ? data[0] + 1u : 1; at < n; at += piece)
		guest_text_add(&t, (const char *)data + at, MIN(piece, n - at), &out);
	if (out.n > n || (out.n && memchr(out.p, 0x1b, out.n)))
		abort();
	buf_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	auto_free char *text = malloc(n + 1);
	struct where w;
	struct fcm_error err;

	memcpy(text, data, n);
	text[n] = '\0';
	fuzz_console(data, n);
	auto_free char *shown = api_redact(text);
	auto_free char *hosts = sshkey_replace_line(text, "fcm-aaaaaaaa", "web.fcm", "ssh-ed25519 K");
	auto_free char *again = sshkey_replace_line(hosts, "fcm-aaaaaaaa", "web.fcm", "ssh-ed25519 K");
	if (strcmp(hosts, again) != 0 || strlen(shown) > n)
		abort();
	if (where_parse(text, &w, &err) == 0 && w.secure && !w.loopback && strncmp(text, "https://", 8) != 0)
		abort();
	return 0;
}
