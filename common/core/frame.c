#include "common/core/frame.h"

#include <assert.h>
#include <string.h>

#include "common/core/kv.h"

static uint32_t get_u32(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void add(struct buf *b, uint32_t stream, enum frame_type type, enum frame_channel channel,
	const void *payload, size_t n)
{
	assert(n <= FRAME_MAX);
	const uint8_t head[FRAME_HEADER] = {stream & 0xff, stream >> 8 & 0xff, stream >> 16 & 0xff,
		stream >> 24, n & 0xff, (uint8_t)(n >> 8), (uint8_t)type, (uint8_t)channel};

	buf_add(b, head, sizeof head);
	buf_add(b, payload, n);
}

void frame_add(struct buf *b, uint32_t stream, enum frame_type type, const void *payload, size_t n)
{
	add(b, stream, type, 0, payload, n);
}

void frame_add_data(struct buf *b, uint32_t stream, enum frame_channel channel, const void *p, size_t n)
{
	add(b, stream, FRAME_DATA, channel, p, n);
}

void frame_add_credit(struct buf *b, uint32_t stream, enum frame_channel channel, uint32_t bytes)
{
	const uint8_t payload[] = {bytes & 0xff, bytes >> 8 & 0xff, bytes >> 16 & 0xff, bytes >> 24};

	add(b, stream, FRAME_CREDIT, channel, payload, sizeof payload);
}

void frame_add_end(struct buf *b, uint32_t stream, enum frame_channel channel)
{
	add(b, stream, FRAME_END, channel, NULL, 0);
}

uint32_t frame_credit(const struct frame *f)
{
	return get_u32(f->payload);
}

static bool is_valid(const struct frame *f)
{
	static const struct {
		uint8_t channel_max;
		uint16_t len_min, len_max;
	} types[] = {
		[FRAME_HELLO] = {0, 0, FRAME_MAX},
		[FRAME_REQ] = {0, 0, FRAME_MAX},
		[FRAME_RES] = {0, 0, FRAME_MAX},
		[FRAME_EVENT] = {0, 0, FRAME_MAX},
		[FRAME_DATA] = {FRAME_STDERR, 0, FRAME_MAX},
		[FRAME_CREDIT] = {FRAME_STDERR, 4, 4},
		[FRAME_END] = {FRAME_STDERR, 0, 0},
	};

	return f->type >= FRAME_HELLO && f->type < ARRAY_SIZE(types) &&
	       f->channel <= types[f->type].channel_max && f->len >= types[f->type].len_min &&
	       f->len <= types[f->type].len_max;
}

ssize_t frame_parse(const void *p, size_t n, struct frame *ret)
{
	const uint8_t *h = p;

	if (n < FRAME_HEADER)
		return 0;
	struct frame f = {
		.stream = get_u32(h),
		.len = (uint16_t)(h[4] | h[5] << 8),
		.type = h[6],
		.channel = h[7],
		.payload = h + FRAME_HEADER,
	};
	if (!is_valid(&f))
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
