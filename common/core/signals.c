#include "common/core/signals.h"

#include <signal.h>
#include <string.h>
#include <strings.h>

#include "common/core/util.h"

/* What stands behind RTMIN or RTMAX: nothing, or a sign and a number. */
static unsigned parse_real_time(const char *s, int base, char sign)
{
	int64_t n = 0;

	if (*s && (*s != sign || !fcm_parse_i64(s + 1, 0, SIGRTMAX - SIGRTMIN, &n)))
		return 0;
	return (unsigned)(sign == '+' ? base + n : base - n);
}

unsigned signal_parse(const char *s)
{
	int64_t n;

	if (fcm_parse_i64(s, 1, SIGNAL_MAX, &n))
		return (unsigned)n;
	if (strncasecmp(s, "SIG", 3) == 0)
		s += 3;
	if (strncasecmp(s, "RTMIN", 5) == 0)
		return parse_real_time(s + 5, SIGRTMIN, '+');
	if (strncasecmp(s, "RTMAX", 5) == 0)
		return parse_real_time(s + 5, SIGRTMAX, '-');
	for (int i = 1; i < NSIG; i++)
		if (sigabbrev_np(i) && strcasecmp(sigabbrev_np(i), s) == 0)
			return (unsigned)i;
	return 0;
}
