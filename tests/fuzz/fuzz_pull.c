/*
 * What a registry sends before its layers: a challenge, a place to go to, a manifest or an index, a config. What is taken from
 * them later makes URLs and names of files, so digests must be digests.
 */
#include <stdlib.h>
#include <string.h>

#include "common/core/ref.h"
#include "daemon/oci/manifest.h"
#include "daemon/oci/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void want(bool fine)
{
	if (!fine)
		abort();
}

static void try_manifest(const char *text, size_t n)
{
	static struct manifest m;
	struct descriptor d;
	struct fcm_error err;

	memset(&m, 0, sizeof m);
	int r = manifest_parse(text, n, "linux/amd64", &d, &m, &err);
	if (r == 1)
		want(ref_digest_valid(d.digest, false) && d.size <= MANIFEST_BYTES);
	if (r != 0)
		return;
	want(m.n > 0 && m.n <= OCI_LAYERS_MAX && m.config.size <= CONFIG_BYTES);
	for (size_t i = 0; i < m.n; i++)
		want(ref_digest_valid(m.layers[i].digest, false) && m.layers[i].size <= OCI_LAYER_BYTES);
}

static void try_config(const char *text, size_t n)
{
	static struct manifest m = {.n = 1};
	struct fcm_error err;

	if (config_parse(text, n, "linux/amd64", &m, &err) == 0)
		want(ref_digest_valid(m.diff_ids[0], false));
}

static void try_wire(const char *text)
{
	char host[64];
	struct challenge c = challenge_parse(text);

	want(c.kind != CHALLENGE_BEARER || c.realm[0]);
	if (url_host(text, host, sizeof host))
		want(host[0] && strpbrk(host, "/@\\?#") == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *text = calloc(1, n + 1);

	memcpy(text, data, n);
	try_manifest(text, n);
	try_config(text, n);
	try_wire(text);
	free(text);
	return 0;
}
