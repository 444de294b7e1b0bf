/*
 * What Linux says last on a console (kernel/reboot.c, arch/x86/kernel/reboot.c), for a guest in which somebody called reboot(2)
 * without asking the agent: busybox's `poweroff -f`, a program of the image. Pure.
 */
#pragma once

#include <stddef.h>

enum last_word { WORD_NONE, WORD_HALTED, WORD_POWER_OFF, WORD_RESTART };

/* Of the end of a console: what comes behind it, the kernel did not live to say. Whoever may write there can forge it, and is then
 * believed only where his own machine is meant. */
enum last_word last_word(const char *text, size_t n);
