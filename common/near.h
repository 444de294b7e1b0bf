/*
 * Which of some words another one is a slip of: one letter of a short word, two of a longer one, that are wrong, missing, too
 * many or swapped with a neighbour.
 */
#pragma once

enum { NEAR_MAX = 31 }; /* longest word that is compared */

struct near {
	const char *word; /* that was typed */
	const char *best; /* so far, or NULL */
	unsigned least;
};

/* Begin with `word`, which must live as long. */
struct near near_of(const char *word);

/* Could it have been this one? */
void near_try(struct near *n, const char *candidate);
