/*
 * Streams of the agent that isn't there (docs/AGENT.md): a few programs of its own, named by the first word, each made to
 * try something with the host.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/core/frame.h"
#include "common/core/kv.h"
#include "common/core/tar.h"
#include "tests/fake/fake.h"

enum { STREAMS = 128, CHANNELS = 3 };

/* Where the daemon puts the script of a build; one that names its interpreter, so that this is run itself, fails. */
#define SCRIPT "/run/fcm/build"

struct stream {
	uint32_t number; /* 0: free */
	bool cat, sips;	 /* what comes on stdin goes to stdout; is taken */
	bool stays;	 /* until a signal comes */
	uint64_t left[CHANNELS];
	size_t window[CHANNELS];
	struct buf held; /* cat's */
	bool stdin_over;
};

static struct stream streams[STREAMS];
static unsigned closed;

static struct stream *find(uint32_t number)
{
	for (size_t i = 0; i < STREAMS; i++)
		if (streams[i].number == number)
			return &streams[i];
	return NULL;
}

static void finish(struct machine *m, struct stream *s, const char *key, int64_t value)
{
	_cleanup_(buf_done) struct buf b = {0};

	frame_add_end(&m->agent.out, s->number, FRAME_STDOUT);
	frame_add_end(&m->agent.out, s->number, FRAME_STDERR);
	kv_add(&b, "ok", "1");
	kv_addf(&b, key, "%" PRId64, value);
	frame_add(&m->agent.out, s->number, FRAME_RES, b.p, b.n);
	buf_done(&s->held);
	s->number = 0;
}

static void refuse(struct machine *m, struct stream *s, const char *text, const char *status)
{
	_cleanup_(buf_done) struct buf b = {0};

	kv_add(&b, "error", text);
	if (status)
		kv_add(&b, "exit", status);
	frame_add(&m->agent.out, s->number, FRAME_RES, b.p, b.n);
	s->number = 0;
}

static void put(struct machine *m, struct stream *s, enum frame_channel c, const void *p, size_t n)
{
	frame_add_data(&m->agent.out, s->number, c, p, n);
	s->window[c] -= n;
}

/* Send of a flood what there is credit for. */
static void flood(struct machine *m, struct stream *s, enum frame_channel c)
{
	static char chunk[FRAME_MAX];

	while (s->left[c] && s->window[c]) {
		size_t n = MIN(MIN(s->left[c], s->window[c]), sizeof chunk);
		for (size_t i = 0; i < n; i++)
			chunk[i] = "0123456789abcdef"[(s->left[c] - i) % 16];
		put(m, s, c, chunk, n);
		s->left[c] -= n;
	}
}

static void pump(struct machine *m, struct stream *s)
{
	flood(m, s, FRAME_STDOUT);
	flood(m, s, FRAME_STDERR);
	while (s->held.n && s->window[FRAME_STDOUT]) {
		size_t n = MIN(MIN(s->held.n, s->window[FRAME_STDOUT]), (size_t)FRAME_MAX);
		put(m, s, FRAME_STDOUT, s->held.p, n);
		buf_drop(&s->held, n);
		frame_add_credit(&m->agent.out, s->number, FRAME_STDIN, (uint32_t)n);
	}
	bool reads = (s->cat || s->sips) && !s->stdin_over;
	if (!reads && !s->stays && !s->held.n && !s->left[FRAME_STDOUT] && !s->left[FRAME_STDERR])
		finish(m, s, "exit", 0);
}

/* So many frames, whatever there is credit for. */
static void overflow(struct machine *m, struct stream *s, int64_t frames)
{
	static const char chunk[FRAME_MAX];

	for (int64_t i = 0; i < frames; i++)
		frame_add_data(&m->agent.out, s->number, FRAME_STDOUT, chunk, sizeof chunk);
	s->stays = true;
}

/* Something after its end. */
static void come_late(struct machine *m, struct stream *s)
{
	frame_add_end(&m->agent.out, s->number, FRAME_STDOUT);
	frame_add_data(&m->agent.out, s->number, FRAME_STDOUT, "x", 1);
	s->stays = true;
}

/* What was asked for, a line each. */
static void show(struct machine *m, struct stream *s, const struct frame *f)
{
	static const char *const keys[] = {"arg", "env", "dir", "user", "tty", "rows", "cols", "stdin"};
	_cleanup_(buf_done) struct buf b = {0};
	unsigned open = 0;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		for (const char *v = NULL; (v = kv_next(f->payload, f->len, keys[i], v));)
			buf_printf(&b, "%s=%s\n", keys[i], v);
	for (size_t i = 0; i < STREAMS; i++)
		open += streams[i].number != 0;
	buf_printf(&b, "open=%u closed=%u\n", open, closed);
	put(m, s, FRAME_STDOUT, b.p, MIN(b.n, (size_t)FRAME_MAX));
}

static void say_words(struct machine *m, struct stream *s, const struct frame *f, enum frame_channel c)
{
	_cleanup_(buf_done) struct buf b = {0};
	const char *word = kv_get(f->payload, f->len, "arg");

	while ((word = kv_next(f->payload, f->len, "arg", word)))
		buf_printf(&b, "%s%s", b.n ? " " : "", word);
	buf_str(&b, "\n");
	put(m, s, c, b.p, b.n);
}

static void run(struct machine *m, struct stream *s, const struct frame *f, const char *name)
{
	const char *word = kv_next(f->payload, f->len, "arg", name);
	const char *second = word ? kv_next(f->payload, f->len, "arg", word) : NULL;
	int64_t n = 0, more = 0;
	char bytes[256];

	fcm_parse_i64(word ? word : "", 0, INT64_MAX, &n);
	fcm_parse_i64(second ? second : "", 0, INT64_MAX, &more);
	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (char)i;
	if (strcmp(name, "echo") == 0)
		say_words(m, s, f, FRAME_STDOUT);
	else if (strcmp(name, "warn") == 0)
		say_words(m, s, f, FRAME_STDERR);
	else if (strcmp(name, "show") == 0)
		show(m, s, f);
	else if (strcmp(name, "binary") == 0)
		put(m, s, FRAME_STDOUT, bytes, sizeof bytes);
	else if (strcmp(name, "flood") == 0)
		s->left[FRAME_STDOUT] = (uint64_t)n, s->left[FRAME_STDERR] = (uint64_t)more;
	else if (strcmp(name, "cat") == 0)
		s->cat = true;
	else if (strcmp(name, "sip") == 0)
		s->sips = true;
	else if (strcmp(name, "sleep") == 0)
		s->stays = true;
	else if (strcmp(name, "over") == 0)
		overflow(m, s, n);
	else if (strcmp(name, "late") == 0)
		come_late(m, s);
	if (strcmp(name, "exit") == 0)
		finish(m, s, "exit", n);
	else if (strcmp(name, "signal") == 0)
		finish(m, s, "signal", n);
	else if (strcmp(name, SCRIPT) == 0)
		finish(m, s, "exit", 3);
	else if (strcmp(name, "nosuch") == 0)
		refuse(m, s, "nosuch: no such\033[31m program", "127");
	else if (strcmp(name, "noexec") == 0)
		refuse(m, s, "noexec: permission denied", "126");
	else if (strcmp(name, "nouser") == 0)
		refuse(m, s, "there is no such user", NULL);
	else if (strcmp(name, "nonsense") == 0)
		finish(m, s, "exit", 999);
	else if (strcmp(name, "lose") == 0)
		shutdown(m->agent.fd, SHUT_RDWR);
	else
		pump(m, s);
}

void exec_open(struct machine *m, const struct frame *f)
{
	struct stream *s = find(0);
	const char *name = kv_get(f->payload, f->len, "arg");

	if (s == NULL || name == NULL) {
		struct stream none = {.number = f->stream};
		refuse(m, &none, "too many streams", NULL);
		return;
	}
	*s = (struct stream){.number = f->stream};
	for (size_t i = 0; i < CHANNELS; i++)
		s->window[i] = FRAME_WINDOW;
	s->stdin_over = kv_get(f->payload, f->len, "stdin") == NULL;
	if (kv_get(f->payload, f->len, "detach"))
		finish(m, s, "pid", 4711);
	else
		run(m, s, f, name);
}

/* An error as the agent's own program says it. */
static void say_error(struct machine *m, struct stream *s, const char *code, const char *hint)
{
	_cleanup_(buf_done) struct buf b = {0};

	kv_add(&b, "error", "there is \033[31mno such thing");
	kv_add(&b, "code", code);
	kv_add(&b, "field", "path");
	kv_add(&b, "hint", hint);
	put(m, s, FRAME_STDERR, b.p, b.n);
	finish(m, s, "exit", 1);
}

/* "/named/NAME/ASKED": an archive of a file NAME, whatever the name is that was asked for. */
static void send_named(struct machine *m, struct stream *s, const char *names)
{
	_cleanup_(buf_done) struct buf b = {0};
	auto_free struct tar_entry *e = xalloc(sizeof *e);

	*e = (struct tar_entry){.type = TAR_FILE, .mode = 0644, .size = 5};
	fcm_format(e->path, sizeof e->path, "%.*s", (int)strcspn(names, "/"), names);
	tar_add(&b, e);
	buf_str(&b, "named");
	tar_pad(&b, e->size);
	tar_add_end(&b);
	put(m, s, FRAME_STDOUT, b.p, b.n);
}

/* op=get and op=put: what is done is named by the path. */
static void copy(struct machine *m, struct stream *s, const char *path, bool get)
{
	static const char came[] = "entries=3\0bytes=4711";
	int64_t n = 0;

	if (strncmp(path, "/flood/", 7) == 0 && fcm_parse_i64(path + 7, 0, INT64_MAX, &n))
		s->left[FRAME_STDOUT] = (uint64_t)n;
	else if (strcmp(path, "/hang") == 0)
		s->stays = true;
	else if (get && strncmp(path, "/named/", 7) == 0)
		send_named(m, s, path + 7);
	else if (strcmp(path, "/cut") == 0)
		put(m, s, FRAME_STDOUT, "half", 4);
	else if (!get)
		s->sips = true;
	if (strcmp(path, "/sips") == 0)
		put(m, s, FRAME_STDOUT, came, sizeof came);
	if (strcmp(path, "/cut") == 0)
		finish(m, s, "exit", 1);
	else if (strcmp(path, "/lose") == 0)
		shutdown(m->agent.fd, SHUT_RDWR);
	else if (strncmp(path, "/fail/", 6) == 0)
		say_error(m, s, path + 6, "do this");
	else if (strcmp(path, "/old") == 0)
		refuse(m, s, "op: 'get' is not known", NULL);
	else
		pump(m, s);
}

void exec_copy(struct machine *m, const struct frame *f)
{
	const char *op = kv_get(f->payload, f->len, "op"), *path = kv_get(f->payload, f->len, "path");
	struct stream *s = find(0);

	if (s == NULL || op == NULL || path == NULL) {
		struct stream none = {.number = f->stream};
		refuse(m, &none, "too many streams, or no path", NULL);
		return;
	}
	bool get = strcmp(op, "get") == 0;
	*s = (struct stream){.number = f->stream, .stdin_over = get};
	for (size_t i = 0; i < CHANNELS; i++)
		s->window[i] = FRAME_WINDOW;
	copy(m, s, path, get);
}

/* A port or URL answers by its number: below 100 yes, below 200 no, below 300 never, else from the third time on. A command is
 * one of the programs above, or flips: "flips N" is good N times, then bad for as often as it is asked in this boot. */
static int probe_status(const struct frame *f, const char *mode)
{
	static unsigned asked;
	const char *url = kv_get(f->payload, f->len, "url"), *colon = url ? strrchr(url, ':') : NULL;
	int64_t port = kv_i64(f->payload, f->len, "port", 1, 65535, 0);

	if (strcmp(mode, "http") == 0)
		port = colon ? strtol(colon + 1, NULL, 10) : 80;
	if (port >= 300)
		return ++asked < 3;
	return port < 100 ? 0 : port < 200 ? 1 : -1;
}

static void probe_command(struct machine *m, struct stream *s, const struct frame *f)
{
	static int64_t flips;
	char line[64] = "", *save = NULL;
	const char *arg = NULL;
	_cleanup_(buf_done) struct buf words = {0};
	int64_t n = 0;

	for (const char *v = NULL; (v = kv_next(f->payload, f->len, "arg", v));)
		arg = v;
	fcm_copy(line, sizeof line, arg ? arg : "");
	if (sscanf(line, "flips %" SCNd64, &n) == 1) {
		finish(m, s, "exit", flips++ >= n);
		return;
	}
	for (char *w = strtok_r(line, " ", &save); w; w = strtok_r(NULL, " ", &save))
		kv_add(&words, "arg", w);
	const struct frame program = {
		.stream = f->stream, .payload = (const uint8_t *)words.p, .len = (uint16_t)words.n};
	run(m, s, &program, kv_get(words.p, words.n, "arg"));
}

void exec_probe_open(struct machine *m, const struct frame *f)
{
	struct stream *s = find(0);
	const char *mode = kv_get(f->payload, f->len, "mode");

	if (s == NULL || mode == NULL)
		return;
	*s = (struct stream){.number = f->stream, .stdin_over = true};
	for (size_t i = 0; i < CHANNELS; i++)
		s->window[i] = FRAME_WINDOW;
	if (strcmp(mode, "exec") == 0) {
		probe_command(m, s, f);
		return;
	}
	int status = strcmp(mode, "ssh") == 0 ? 1 : probe_status(f, mode);
	s->stays = status < 0;
	if (status > 0)
		put(m, s, FRAME_STDOUT, "closed\033[31m\n", 12);
	if (status >= 0)
		finish(m, s, "exit", status);
}

void exec_frame(struct machine *m, const struct frame *f)
{
	struct stream *s = f->stream ? find(f->stream) : NULL;

	if (s == NULL)
		return;
	if (f->type == FRAME_CREDIT)
		s->window[f->channel] += frame_credit(f);
	else if (f->type == FRAME_END)
		s->stdin_over = true;
	else if (s->sips)
		frame_add_credit(&m->agent.out, s->number, FRAME_STDIN, f->len);
	else if (s->cat)
		buf_add(&s->held, f->payload, f->len);
	pump(m, s);
}

void exec_control(struct machine *m, const char *op, const struct frame *f)
{
	struct stream *s = find((uint32_t)kv_i64(f->payload, f->len, "stream", 1, UINT32_MAX, 0));
	char text[40];

	if (s == NULL || s->number == 0)
		return;
	if (strcmp(op, "signal") == 0) {
		finish(m, s, "signal", kv_i64(f->payload, f->len, "signal", 1, 64, 1));
	} else if (strcmp(op, "resize") == 0) {
		int64_t rows = kv_i64(f->payload, f->len, "rows", 1, 1000, 0);
		int64_t cols = kv_i64(f->payload, f->len, "cols", 1, 1000, 0);
		fcm_format(text, sizeof text, "%" PRId64 "x%" PRId64 "\n", rows, cols);
		put(m, s, FRAME_STDOUT, text, strlen(text));
	} else {
		buf_done(&s->held);
		s->number = 0;
		closed++;
	}
}

void exec_reset(void)
{
	for (size_t i = 0; i < STREAMS; i++)
		buf_done(&streams[i].held);
	memset(streams, 0, sizeof streams);
}
