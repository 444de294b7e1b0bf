#include "client/ending.h"

#include <assert.h>

#include "common/core/util.h"

static const int endings[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

static void (*undos[4])(void);
static volatile sig_atomic_t nundos;

void ending_signals(sigset_t *ret)
{
	struct sigaction now;

	sigemptyset(ret);
	for (size_t i = 0; i < ARRAY_SIZE(endings); i++)
		if (sigaction(endings[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN)
			sigaddset(ret, endings[i]);
}

static void undo_and_end(int sig)
{
	for (int i = 0; i < nundos; i++)
		undos[i]();
	signal(sig, SIG_DFL);
	raise(sig);
}

static void catch_signals(void (*handler)(int))
{
	struct sigaction sa = {.sa_handler = handler};

	ending_signals(&sa.sa_mask);
	for (size_t i = 0; i < ARRAY_SIZE(endings); i++)
		if (sigismember(&sa.sa_mask, endings[i]))
			sigaction(endings[i], &sa, NULL);
}

void ending_undo(void (*undo)(void))
{
	for (int i = 0; i < nundos; i++)
		if (undos[i] == undo)
			return;
	assert(nundos < (int)ARRAY_SIZE(undos));
	undos[nundos] = undo;
	nundos++;
	catch_signals(undo_and_end);
}

void ending_instead(void (*handler)(int sig))
{
	catch_signals(handler ? handler : nundos ? undo_and_end : SIG_DFL);
}
