#include "daemon/shim/lastword.h"

#include <string.h>

#include "common/core/util.h"

/* Behind its time, which may follow half a line of somebody else's. */
static const struct {
	const char *text;
	enum last_word word;
} words[] = {
	{"] reboot: System halted", WORD_HALTED},
	{"] reboot: Power down", WORD_POWER_OFF},
	{"] reboot: Restarting system", WORD_RESTART},
	{"] reboot: machine restart", WORD_RESTART},
};

enum last_word last_word(const char *text, size_t n)
{
	while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'))
		n--;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		size_t k = strlen(words[i].text);
		if (n >= k && memcmp(text + n - k, words[i].text, k) == 0)
			return words[i].word;
	}
	return WORD_NONE;
}
