#include "client/term.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/core/clock.h"

#define ERASE_LINE "\r\033[K"

static volatile sig_atomic_t progress_shown;
static const char *volatile progress_note;
static int64_t progress_since;

unsigned term_width(int fd)
{
	struct winsize w;

	if (!isatty(fd))
		return 0;
	return ioctl(fd, TIOCGWINSZ, &w) == 0 && w.ws_col ? w.ws_col : 80;
}

bool term_has_progress(void)
{
	const char *term = getenv("TERM");

	return isatty(STDERR_FILENO) && getenv("FCM_DEBUG") == NULL && !(term && strcmp(term, "dumb") == 0);
}

bool term_has_colour(void)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	return isatty(STDOUT_FILENO) && !(no && *no) && !(term && strcmp(term, "dumb") == 0);
}

static void on_signal(int sig)
{
	if (progress_shown)
		(void)!write(STDERR_FILENO, ERASE_LINE, sizeof ERASE_LINE - 1);
	if (progress_shown && progress_note)
		(void)!write(STDERR_FILENO, progress_note, strlen(progress_note));
	raise(sig); /* SA_RESETHAND: this one ends the program */
}

static void catch_signals(void)
{
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
}

void term_progress(const char *fmt, ...)
{
	char line[256];
	va_list ap;

	if (!term_has_progress())
		return;
	if (!progress_shown) {
		catch_signals();
		progress_since = clock_ms();
	}
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	fcm_printable(line, strlen(line));
	int width = (int)term_width(STDERR_FILENO) - 10;
	progress_shown = 1;
	fprintf(stderr, ERASE_LINE "%.*s  %s", MAX(width, 10), line,
		clock_span(clock_ms() - progress_since).s);
}

void term_progress_note(const char *note)
{
	progress_note = note;
}

void term_progress_end(void)
{
	progress_note = NULL;
	if (progress_shown)
		fputs(ERASE_LINE, stderr);
	progress_shown = 0;
}

/* Length of the UTF-8 sequence that begins with c (RFC 3629, section 3); 1 for what begins none. */
static size_t sequence_length(unsigned char c)
{
	return c >= 0xf0 && c < 0xf8 ? 4 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xc0 && c < 0xe0 ? 2 : 1;
}

static void add_printable(struct guest_text *t, struct buf *out)
{
	size_t n = fcm_printable(t->held, t->nheld);

	buf_add(out, t->held, n);
	t->nheld = 0;
}

static void add_plain(struct guest_text *t, unsigned char c, struct buf *out)
{
	bool continues = (c & 0xc0) == 0x80;

	if (t->nheld && !continues)
		add_printable(t, out);
	if (c == 0x1b)
		t->state = TEXT_ESCAPE;
	if (c == 0x1b || c == '\r')
		return;
	t->held[t->nheld++] = (char)c;
	if (t->nheld == sequence_length((unsigned char)t->held[0]))
		add_printable(t, out);
}

/* ECMA-48: ESC [ parameters final; ESC ] P X ^ _ strings up to BEL or ESC \; other ESC intermediates final. */
static void after_escape(struct guest_text *t, unsigned char c)
{
	if (c == '[')
		t->state = TEXT_CSI;
	else if (c && strchr("]PX^_", c))
		t->state = TEXT_STRING;
	else if (c < 0x20 || c > 0x2f)
		t->state = TEXT_PLAIN;
}

void guest_text_add(struct guest_text *t, const char *p, size_t n, struct buf *out)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)p[i];
		switch (t->state) {
		case TEXT_PLAIN:
			add_plain(t, c, out);
			break;
		case TEXT_ESCAPE:
			after_escape(t, c);
			break;
		case TEXT_CSI:
			if (c < 0x20 || c > 0x3f)
				t->state = TEXT_PLAIN;
			break;
		case TEXT_STRING:
			/* a line ends it too: a guest must not make the rest of its log vanish */
			if (c == 0x07 || c == '\n')
				t->state = TEXT_PLAIN;
			else if (c == 0x1b)
				t->state = TEXT_STRING_ESCAPE;
			break;
		case TEXT_STRING_ESCAPE:
			t->state = TEXT_PLAIN;
			break;
		}
	}
}
