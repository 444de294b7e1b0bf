/*
 * The terminal: one line of progress that goes away, colours, and text of guests made harmless.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"

/* Is stderr a terminal that takes a line of progress? Not when FCM_DEBUG shows the requests there. */
bool term_has_progress(void);

/* Colours: stdout is a terminal and NO_COLOR (no-color.org) is unset or empty. */
bool term_has_colour(void);

/* Begin or replace the line of progress, cut to the width; or lines, with "\n" between them, as many as there is room for. They
 * come after a moment, so that what is done at once shows none, and count the seconds. Nothing without term_has_progress(). */
void term_progress(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* How much of it there is room for. */
unsigned term_progress_width(void);

/* What to say when the user interrupts meanwhile; a string that lives for ever. Forgotten at
 * term_progress_end(). */
void term_progress_note(const char *note);

/* The same, on a terminal or not, until it is NULL again; it counts more. */
void term_interrupt_note(const char *note);

/* Take it away. Also happens when a signal ends the program. */
void term_progress_end(void);

/* Ask the user for a line: `prompt` on stderr, the answer, at most size - 1 bytes, from stdin; without `echo` it isn't shown.
 * FCM_USAGE when stdin is no terminal, FCM_CANCELLED at its end. */
int term_ask(const char *prompt, bool echo, char *ret, size_t size, struct fcm_error *err) must_check;

/* All of stdin but for the end of its line, at most size - 2 bytes without a NUL: the user's password, token or the like, as `what`
 * says. FCM_USAGE. */
int term_read(const char *what, char *ret, size_t size, struct fcm_error *err) must_check;

/* Columns of the terminal at fd, or 0 when it is none. */
unsigned term_width(int fd);

/* Its size; false when it is none or doesn't know. */
bool term_size(int fd, uint32_t *ret_rows, uint32_t *ret_cols);

/* Make the terminal at fd raw (cfmakeraw(3)), so that all keys go to the guest; with `interruptible` ^C still ends the
 * program. It is put back by term_raw_end() and when a signal ends the program (ending.h). */
int term_raw(int fd, bool interruptible, struct fcm_error *err) must_check;

/* Put it back and throw away what was typed and not read: an answer of the terminal to the guest is not for the shell.
 * Does nothing without term_raw(). */
void term_raw_end(void);

/* A picture on stdout, a terminal, that is drawn again and again and leaves no trace. Its keyboard (stdin, where that is a
 * terminal as well) is raw but for ^C; ^Z does nothing. term_screen_end() puts all back, and so does a signal that ends the
 * program. */
int term_screen(struct fcm_error *err) must_check;
void term_screen_end(void);

/* Show `text` from the top, as many of its lines as there is room for. They must fit the width, but for colours. */
void term_screen_draw(const char *text);

/* What a guest wrote, on its way to a terminal: escape sequences (ECMA-48) and carriage returns go, and what then still
 * isn't printable becomes '?'. Zero-initialised is the start of a stream; a character that is cut at the end of a piece
 * waits for the next. */
struct guest_text {
	enum { TEXT_PLAIN, TEXT_ESCAPE, TEXT_CSI, TEXT_STRING, TEXT_STRING_ESCAPE } state;
	char held[4];
	size_t nheld;
};

/* Append the printable form of the n bytes at p to *out. */
void guest_text_add(struct guest_text *t, const char *p, size_t n, struct buf *out);
