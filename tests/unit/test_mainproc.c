/* What a main process prints: the agent's ring, and the log that the daemon makes of its answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/core/kv.h"
#include "daemon/engine/mainlog.h"
#include "daemon/guest/intake.h"
#include "images/agent/ring.h"

static struct ring ring;

static void add(enum frame_channel channel, const char *s)
{
	ring_add(&ring, channel, s, strlen(s));
}

static void test_records(void **state)
{
	_cleanup_(buf_done) struct buf b = {0}, out = {0};
	uint64_t pos = 2;

	(void)state;
	add(FRAME_STDOUT, "abc");
	add(FRAME_STDOUT, "d");
	add(FRAME_STDERR, "xyz");
	ring_records(&ring, &pos, 1000, &b);
	assert_int_equal(pos, 2);
	assert_int_equal(b.n, 3 + 2 + 3 + 3);
	assert_memory_equal(b.p, "\1\2\0cd\2\3\0xyz", b.n);
	assert_int_equal(mainlog_records(b.p, b.n, 7, pos, 99, &out), 5);
	assert_int_equal(out.n, 2 * sizeof(struct mainlog_head) + 5);
	for (size_t n = 1; n < b.n; n++)
		assert_true(mainlog_records(b.p, n, 7, pos, 99, &out) == (n == 5 ? 2 : -1));
	ring_done(&ring);
}

/* What comes out is the end of what went in, whatever its pieces are, with the channel of each byte. */
static void test_overrun(void **state)
{
	enum { TOTAL = 3 * RING_BYTES };
	auto_free char *all = xalloc(TOTAL), *channels = xalloc(TOTAL), *piece = xalloc(RING_BYTES);
	uint64_t total = 0;

	(void)state;
	srandom(7);
	while (total < TOTAL) {
		size_t n = MIN((size_t)(random() % (random() % 8 ? 50 : 40000)), TOTAL - total);
		enum frame_channel channel = random() % 2 ? FRAME_STDOUT : FRAME_STDERR;
		for (size_t i = 0; i < n; i++)
			piece[i] = all[total + i] = (char)random();
		memset(channels + total, channel, n);
		ring_add(&ring, channel, piece, n);
		total += n;
		assert_int_equal(ring.total, total);
		assert_true(total - ring_oldest(&ring) <= RING_BYTES && ring.count <= RING_PIECES);
	}
	assert_true(total - ring_oldest(&ring) > RING_BYTES / 2);
	for (uint64_t pos = ring_oldest(&ring); pos < total;) {
		enum frame_channel channel;
		const char *p;
		size_t n = ring_get(&ring, pos, 1000, &channel, &p);
		assert_in_range(n, 1, 1000);
		assert_memory_equal(p, all + pos, n);
		for (size_t i = 0; i < n; i++)
			assert_int_equal(channels[pos + i], channel);
		pos += n;
	}
	ring_done(&ring);
}

/* Pieces of one byte run out before the bytes do. */
static void test_many_pieces(void **state)
{
	(void)state;
	for (int i = 0; i < 2 * RING_PIECES; i++)
		add(i % 2 ? FRAME_STDOUT : FRAME_STDERR, "x");
	assert_int_equal(ring.total, 2 * RING_PIECES);
	assert_int_equal(ring_oldest(&ring), RING_PIECES);
	uint64_t pos = 0;
	_cleanup_(buf_done) struct buf b = {0};
	ring_records(&ring, &pos, 100, &b);
	assert_int_equal(pos, RING_PIECES);
	assert_int_equal(b.n, 100 / 4 * 4);
	ring_done(&ring);
}

static bool has_room(uint64_t pos)
{
	return ring_has_room(&ring, pos, RING_BYTES / 4);
}

/* Many small pieces that the host hasn't read yet stay, as many bytes do. */
static void test_room(void **state)
{
	static char block[RING_BYTES / 4];

	(void)state;
	assert_true(has_room(0));
	for (int i = 0; i < RING_PIECES - 2; i++)
		add(i % 2 ? FRAME_STDOUT : FRAME_STDERR, "x");
	assert_true(has_room(0));
	add(FRAME_STDERR, "x");
	assert_false(has_room(0));
	assert_true(has_room(1));
	add(FRAME_STDOUT, "x");
	assert_false(has_room(1));
	assert_true(has_room(2));
	add(FRAME_STDERR, "x");
	add(FRAME_STDOUT, "x");
	assert_int_equal(ring_oldest(&ring), 2); /* as it said */
	ring_done(&ring);
	for (int i = 0; i < 3; i++)
		ring_add(&ring, FRAME_STDOUT, block, sizeof block);
	assert_true(has_room(0));
	add(FRAME_STDOUT, "x");
	assert_false(has_room(0));
	assert_true(has_room(1));
	ring_done(&ring);
}

static void test_last_word(void **state)
{
	static const struct {
		const char *text;
		int exit;
	} rows[] = {
		{"", -1},
		{"fcm-agent: main exit 3\n", 3},
		{"fcm-agent: main exit 3\nfcm-agent: main exit 255", 255},
		{"fcm-agent: main exit 256\n", -1},
		{"fcm-agent: main exit \n", -1},
		{"fcm-agent: main exit 99999999999\n", -1},
		{"[    1.0] fcm-agent: main exit 0\r\n[    1.1] fcm-agent: power poweroff\r\n", 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(intake_console_main(rows[i].text, strlen(rows[i].text)), rows[i].exit);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_records),
		cmocka_unit_test(test_overrun),
		cmocka_unit_test(test_many_pieces),
		cmocka_unit_test(test_room),
		cmocka_unit_test(test_last_word),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
