#include "daemon/shim/halt.h"

#include <string.h>

#include "common/core/util.h"
#include "daemon/shim/lastword.h"

enum {
	LOOK_MS = 1500,
	IDLE_NS = 500000, /* between two looks: for what the VMM does by itself */
};

void halt_output(struct halt *h, const char *p, size_t n)
{
	size_t keep = n < sizeof h->end ? MIN(h->n, sizeof h->end - n) : 0;

	if (n > sizeof h->end) {
		p += n - sizeof h->end;
		n = sizeof h->end;
	}
	memmove(h->end, h->end + h->n - keep, keep);
	memcpy(h->end + keep, p, n);
	h->n = keep + n;
	h->cpu_ns = -1;
}

int halt_patience_ms(const struct halt *h)
{
	return last_word(h->end, h->n) == WORD_HALTED ? LOOK_MS : -1;
}

bool halt_look(struct halt *h, int64_t cpu_ns)
{
	int64_t before = h->cpu_ns;

	h->cpu_ns = cpu_ns;
	return halt_patience_ms(h) >= 0 && before >= 0 && cpu_ns - before < IDLE_NS;
}
