#include "common/near.h"

#include <string.h>

#include "common/core/util.h"

/* The distance of two words in letters changed, added, left out or swapped with a neighbour (the "optimal
 * string alignment" form of Damerau and Levenshtein's distance: G. Navarro, A Guided Tour to Approximate
 * String Matching). */
static unsigned distance(const char *a, size_t na, const char *b, size_t nb)
{
	unsigned d[NEAR_MAX + 1][NEAR_MAX + 1];

	for (size_t i = 0; i <= na; i++) {
		for (size_t j = 0; j <= nb; j++) {
			if (i == 0 || j == 0) {
				d[i][j] = (unsigned)(i + j);
				continue;
			}
			unsigned best = MIN(d[i - 1][j], d[i][j - 1]) + 1;
			best = MIN(best, d[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				best = MIN(best, d[i - 2][j - 2] + 1);
			d[i][j] = best;
		}
	}
	return d[na][nb];
}

struct near near_of(const char *word)
{
	return (struct near){.word = word, .least = strlen(word) <= 3 ? 2 : 3};
}

void near_try(struct near *n, const char *candidate)
{
	size_t na = strlen(n->word), nb = strlen(candidate);

	if (na > NEAR_MAX || nb > NEAR_MAX)
		return;
	unsigned d = distance(n->word, na, candidate, nb);
	if (d < n->least) {
		n->least = d;
		n->best = candidate;
	}
}
