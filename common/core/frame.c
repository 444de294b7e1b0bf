#include "common/core/frame.h"

#include <assert.h>
#include <string.h>

#include "common/core/kv.h"

void frame_add(struct buf *b, uint32_t stream, enum frame_type type, const void *payload, size_t n)
{
	assert(n <= FRAME_MAX);
	const uint8_t head[FRAME_HEADER] = {stream & 0xff, stream >> 8 & 0xff, stream >> 16 & 0xff,
		stream >> 24, n & 0xff, (uint8_t)(n >> 8), type, 0};

	buf_add(b, head, sizeof head);
	buf_add(b, payload, n);
}

ssize_t frame_parse(const void *p, size_t n, struct frame *ret)
{
	const uint8_t *h = p;

	if (n < FRAME_HEADER)
		return 0;
	struct frame f = {
		.stream = h[0] | (uint32_t)h[1] << 8 | (uint32_t)h[2] << 16 | (uint32_t)h[3] << 24,
		.len = (uint16_t)(h[4] | h[5] << 8),
		.type = h[6],
		.channel = h[7],
		.payload = h + FRAME_HEADER,
	};
	if (f.len > FRAME_MAX || f.type < FRAME_HELLO || f.type > FRAME_EVENT || f.channel != 0)
		return -1;
	if (n < FRAME_HEADER + (size_t)f.len)
		return 0;
	*ret = f;
	return FRAME_HEADER + f.len;
}

static bool is_hello(const struct frame *f, const char *nonce)
{
	const char *magic = kv_get(f->payload, f->len, "magic"), *got = kv_get(f->payload, f->len, "nonce");

	return f->type == FRAME_HELLO && f->stream == 0 && magic && strcmp(magic, FRAME_MAGIC) == 0 && got &&
	       strcmp(got, nonce) == 0;
}

enum { HELLO_MAX = 512 }; /* bytes of a whole HELLO frame; nothing longer is taken for one */

size_t frame_find_hello(const void *p, size_t n, const char *nonce, struct frame *ret, size_t *ret_keep)
{
	const uint8_t *s = p;

	for (size_t i = 0; i + FRAME_HEADER <= n; i++) {
		struct frame f;
		ssize_t len = frame_parse(s + i, n - i, &f);
		if (len > 0 && len <= HELLO_MAX && is_hello(&f, nonce)) {
			*ret = f;
			return i + (size_t)len;
		}
	}
	*ret_keep = MIN(n, (size_t)HELLO_MAX);
	return 0;
}
