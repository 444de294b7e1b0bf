/* What streams make of a guest's frames, between reads, writes and closes that the input chooses. However it lies, no more
 * bytes come through than it had credit for, and no more go out than it granted. */
#include <stdlib.h>
#include <string.h>

#include "daemon/guest/intake.h"
#include "daemon/guest/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { N = 2 };

/* In place of guest.c: a session that takes all and never fails. */
static struct buf out;
static uint32_t number = N;

void guest_lock(struct guest *g)
{
	(void)g;
}

void guest_unlock(struct guest *g)
{
	(void)g;
}

struct buf *guest_out(struct guest *g)
{
	(void)g;
	return &out;
}

void guest_flush(struct guest *g)
{
	(void)g;
}

uint32_t guest_number(struct guest *g)
{
	(void)g;
	return ++number;
}

void guest_unref(struct guest *g)
{
	(void)g;
}

struct user {
	struct guest_stream *s;
	size_t room[3]; /* bytes that may still come, or (stdin) go */
};

static void spend(size_t *room, size_t n)
{
	if (n > *room)
		abort();
	*room -= n;
}

/* The credit that went out. */
static void count_out(struct user users[N])
{
	struct frame f;

	for (ssize_t n; out.n && (n = frame_parse(out.p, out.n, &f)) > 0; buf_drop(&out, (size_t)n))
		if (f.type == FRAME_CREDIT)
			users[f.stream - 1].room[f.channel] += frame_credit(&f);
		else if (f.type == FRAME_DATA)
			spend(&users[f.stream - 1].room[FRAME_STDIN], f.len);
	buf_done(&out);
}

static void act(struct user *u, uint8_t what)
{
	static const char block[FRAME_WINDOW];
	static struct guest_piece piece;

	if (u->s == NULL)
		return;
	if (what < 0x80) {
		if (guest_stream_read(u->s, &piece) == GUEST_DATA)
			spend(&u->room[piece.channel], piece.n);
	} else if (what < 0xf0) {
		guest_stream_write(u->s, block, (size_t)what * 512);
	} else if (what < 0xf8) {
		guest_stream_end(u->s);
	} else {
		guest_stream_close(STEAL(u->s));
	}
}

/* A frame whose header is in the input, and its payload too, but for that of DATA, or windows would take long inputs. Returns
 * how much of the input that was. */
static size_t add_frame(struct buf *b, const uint8_t *p, size_t n)
{
	static const char zeros[FRAME_MAX];
	size_t len = MIN(p[4] | (size_t)p[5] << 8, (size_t)FRAME_MAX);
	bool is_data = p[6] == FRAME_DATA;

	if (!is_data)
		len = MIN(len, n - FRAME_HEADER);
	buf_add(b, p, FRAME_HEADER);
	b->p[b->n - 4] = (char)(len & 0xff);
	b->p[b->n - 3] = (char)(len >> 8);
	buf_add(b, is_data ? (const void *)zeros : p + FRAME_HEADER, len);
	return FRAME_HEADER + (is_data ? 0 : len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct stream_list all = LIST_HEAD_INITIALIZER(all);
	struct user users[N];
	struct intake in = {.up = true};
	struct intake_message m;
	struct fcm_error err;

	for (uint32_t i = 0; i < N; i++)
		users[i] = (struct user){
			stream_new(&all, NULL, i + 1, &err), {FRAME_WINDOW, FRAME_WINDOW, FRAME_WINDOW}};
	number = N;
	for (size_t at = 0; at + 1 + FRAME_HEADER <= n;) {
		act(&users[data[at] % N], data[at]);
		at += 1 + add_frame(&in.bytes, data + at + 1, n - at - 1);
		enum intake_kind kind = intake_next(&in, &m);
		if (kind == INTAKE_BROKEN)
			break;
		if ((kind == INTAKE_STREAM || kind == INTAKE_ANSWER) && stream_take(&all, &m.frame) &&
			m.frame.type == FRAME_CREDIT)
			users[m.frame.stream - 1].room[FRAME_STDIN] += frame_credit(&m.frame);
		count_out(users);
	}
	stream_fail_all(&all);
	for (size_t i = 0; i < N; i++)
		guest_stream_close(users[i].s);
	buf_done(&out);
	intake_done(&in);
	return 0;
}
