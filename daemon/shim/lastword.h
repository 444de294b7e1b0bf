/*
 * What Linux says last on a console (kernel/reboot.c, arch/x86/kernel/reboot.c), for a guest in which somebody called reboot(2)
 * without asking the agent: busybox's `poweroff -f`, a program of the image. Pure.
 */
#pragma once

#include <stddef.h>

enum last_word { WORD_NONE, WORD_HALTED, WORD_POWER_OFF, WORD_RESTART };

/* `text`: the last n bytes of a console. A word counts as its last line only: behind it nothing is printed any more. Whoever may write
 * there can forge one, for his own machine. */
enum last_word last_word(const char *text, size_t n);
