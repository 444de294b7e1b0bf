#include "client/term.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "client/ending.h"
#include "common/core/clock.h"

#define ERASE_LINE "\r\033[K"
/* xterm's "alternate screen" and the cursor: DECSET and DECRST 1049 and 25 (invisible-island.net/xterm/ctlseqs). */
#define SCREEN_BEGIN "\033[?1049h\033[?25l"
#define SCREEN_END "\033[?25h\033[?1049l"

/* How often the line may change, and how long an operation lasts before it has one: less would flicker. */
enum { TICK_MS = 200, MAX_TEXT = 8192, SECONDS_WIDTH = 10 };

/* The lines belong to a thread, for the caller waits in libcurl. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_t thread;
	bool running, stop;
	char text[MAX_TEXT];
} progress = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* For undo_terminal(). */
static volatile sig_atomic_t progress_shown;
static char progress_erase[32]; /* what takes it away */
static const char *volatile progress_note, *volatile interrupt_note;
static volatile sig_atomic_t raw_fd = -1, screen_shown;
static struct termios raw_before;

unsigned term_width(int fd)
{
	struct winsize w;

	if (!isatty(fd))
		return 0;
	return ioctl(fd, TIOCGWINSZ, &w) == 0 && w.ws_col ? w.ws_col : 80;
}

bool term_size(int fd, uint32_t *ret_rows, uint32_t *ret_cols)
{
	struct winsize w;

	if (ioctl(fd, TIOCGWINSZ, &w) < 0 || w.ws_row == 0 || w.ws_col == 0)
		return false;
	*ret_rows = w.ws_row;
	*ret_cols = w.ws_col;
	return true;
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

void term_raw_end(void)
{
	if (raw_fd >= 0)
		tcsetattr(raw_fd, TCSAFLUSH, &raw_before);
	raw_fd = -1;
}

/* Before a signal ends the program. */
static void undo_terminal(void)
{
	const char *note = interrupt_note ? interrupt_note : progress_note;

	term_raw_end();
	if (screen_shown)
		(void)!write(STDOUT_FILENO, SCREEN_END, sizeof SCREEN_END - 1);
	if (progress_shown)
		(void)!write(STDERR_FILENO, progress_erase, strlen(progress_erase));
	if (note)
		(void)!write(STDERR_FILENO, note, strlen(note));
}

int term_raw(int fd, bool interruptible, struct fcm_error *err)
{
	struct termios raw;

	if (tcgetattr(fd, &raw_before) < 0)
		return fcm_fail_errno(err, "the terminal");
	raw = raw_before;
	cfmakeraw(&raw);
	if (interruptible)
		raw.c_lflag |= ISIG;
	ending_undo(undo_terminal);
	raw_fd = fd;
	if (tcsetattr(fd, TCSADRAIN, &raw) == 0)
		return 0;
	raw_fd = -1;
	return fcm_fail_errno(err, "the terminal");
}

/* As with term_raw() a signal puts the terminal back. */
static int hide_input(struct fcm_error *err)
{
	struct termios hidden;

	if (tcgetattr(STDIN_FILENO, &raw_before) < 0)
		return fcm_fail_errno(err, "the terminal");
	hidden = raw_before;
	hidden.c_lflag &= ~(tcflag_t)ECHO;
	ending_undo(undo_terminal);
	raw_fd = STDIN_FILENO;
	if (tcsetattr(STDIN_FILENO, TCSAFLUSH, &hidden) == 0)
		return 0;
	raw_fd = -1;
	return fcm_fail_errno(err, "the terminal");
}

int term_ask(const char *prompt, bool echo, char *ret, size_t size, struct fcm_error *err)
{
	ssize_t n;

	if (!isatty(STDIN_FILENO))
		return fcm_fail(err, FCM_USAGE, "stdin isn't a terminal");
	if (!echo && hide_input(err) < 0)
		return -1;
	progress_note = "\n"; /* for whoever gives up */
	fputs(prompt, stderr);
	do
		n = read(STDIN_FILENO, ret, size - 1); /* a line: the terminal is canonical (termios(3)) */
	while (n < 0 && errno == EINTR);
	progress_note = NULL;
	term_raw_end();
	if (!echo)
		fputc('\n', stderr);
	if (n <= 0)
		return fcm_fail(err, FCM_CANCELLED, "nothing was typed");
	ret[n] = '\0';
	ret[strcspn(ret, "\n")] = '\0';
	return 0;
}

int term_read(const char *what, char *ret, size_t size, struct fcm_error *err)
{
	size_t n = 0;
	ssize_t k;

	while ((k = read(STDIN_FILENO, ret + n, size - 1 - n)) > 0)
		n += (size_t)k;
	if (k < 0)
		return fcm_fail_errno(err, "read the %s", what);
	ret[n] = '\0';
	if (n && ret[n - 1] == '\n')
		ret[--n] = '\0';
	if (n && ret[n - 1] == '\r')
		ret[--n] = '\0';
	if (strlen(ret) != n || n > size - 2)
		return fcm_fail(err, FCM_USAGE, "stdin is no %s of at most %zu bytes", what, size - 2);
	return 0;
}

int term_screen(struct fcm_error *err)
{
	signal(SIGTSTP, SIG_IGN);
	ending_undo(undo_terminal);
	screen_shown = 1;
	fputs(SCREEN_BEGIN, stdout);
	fflush(stdout);
	if (!isatty(STDIN_FILENO) || term_raw(STDIN_FILENO, true, err) == 0)
		return 0;
	term_screen_end();
	return -1;
}

void term_screen_end(void)
{
	term_raw_end();
	if (screen_shown)
		fputs(SCREEN_END, stdout);
	fflush(stdout);
	screen_shown = 0;
	signal(SIGTSTP, SIG_DFL);
}

void term_screen_draw(const char *text)
{
	uint32_t rows = 24, cols;

	term_size(STDOUT_FILENO, &rows, &cols);
	fputs("\033[H", stdout);
	for (; *text && rows > 0; rows--) {
		size_t n = strcspn(text, "\n");
		printf("%.*s\033[K%s", (int)n, text, rows > 1 ? "\r\n" : "");
		text += n + (text[n] == '\n');
	}
	fputs("\033[J", stdout);
	fflush(stdout);
}

unsigned term_progress_width(void)
{
	return MAX((int)term_width(STDERR_FILENO) - SECONDS_WIDTH, SECONDS_WIDTH);
}

/* What fits of the text; the seconds are on its first line. Returns how many lines. */
static unsigned fit_lines(int64_t ms, struct buf *b)
{
	int width = (int)term_progress_width();
	uint32_t rows = 24, cols;
	unsigned n = 0;

	term_size(STDERR_FILENO, &rows, &cols);
	for (const char *s = progress.text; n == 0 || (*s && n + 1 < rows); n++) {
		size_t len = strcspn(s, "\n");
		buf_printf(b, "%s%.*s", n ? "\n" : "", (int)MIN(len, (size_t)width), s);
		if (n == 0 && ms >= 1000)
			buf_printf(b, "  %d s", (int)(ms / 1000));
		s += len + (s[len] == '\n');
	}
	return n;
}

/* The cursor is behind the last one. */
static void set_erase(unsigned lines)
{
	if (lines == 1)
		fcm_copy(progress_erase, sizeof progress_erase, ERASE_LINE);
	else
		fcm_format(progress_erase, sizeof progress_erase, "\r\033[%uA\033[J", lines - 1);
}

/* Draw what there is to say after `ms`, unless it stands there already. */
static void draw(int64_t ms, struct buf *shown)
{
	struct buf b = {0};
	unsigned lines = fit_lines(ms, &b);

	if (shown->n == 0 || shown->n != b.n || memcmp(shown->p, b.p, b.n) != 0) {
		if (!progress_shown)
			set_erase(1);
		progress_shown = 1; /* before it is: a signal may come at once */
		fprintf(stderr, "%s%s", progress_erase, b.p);
		set_erase(lines);
	}
	buf_done(shown);
	*shown = b;
}

static void *progress_thread(void *arg)
{
	int64_t since = clock_ms();
	_cleanup_(buf_done) struct buf shown = {0};

	(void)arg;
	pthread_mutex_lock(&progress.lock);
	while (!progress.stop) {
		struct timespec until;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += TICK_MS * 1000000L;
		until.tv_sec += until.tv_nsec / 1000000000L;
		until.tv_nsec %= 1000000000L;
		if (pthread_cond_clockwait(&progress.wake, &progress.lock, CLOCK_MONOTONIC, &until) ==
			ETIMEDOUT)
			draw(clock_ms() - since, &shown);
	}
	pthread_mutex_unlock(&progress.lock);
	return NULL;
}

/* Signals are for the main thread. */
static void start_thread(void)
{
	sigset_t all, old;

	ending_undo(undo_terminal);
	pthread_cond_init(&progress.wake, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	progress.stop = false;
	progress.running = pthread_create(&progress.thread, NULL, progress_thread, NULL) == 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void term_progress(const char *fmt, ...)
{
	va_list ap;

	if (!term_has_progress())
		return;
	pthread_mutex_lock(&progress.lock);
	va_start(ap, fmt);
	vsnprintf(progress.text, sizeof progress.text, fmt, ap);
	va_end(ap);
	fcm_make_printable(progress.text);
	pthread_mutex_unlock(&progress.lock);
	if (!progress.running)
		start_thread();
}

void term_progress_note(const char *note)
{
	progress_note = note;
}

void term_interrupt_note(const char *note)
{
	ending_undo(undo_terminal);
	interrupt_note = note;
}

void term_progress_end(void)
{
	progress_note = NULL;
	if (!progress.running)
		return;
	pthread_mutex_lock(&progress.lock);
	progress.stop = true;
	pthread_cond_signal(&progress.wake);
	pthread_mutex_unlock(&progress.lock);
	pthread_join(progress.thread, NULL);
	progress.running = false;
	if (progress_shown)
		fputs(progress_erase, stderr);
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
