/* Between store.c (directories) and records.c (what is in them). */
#pragma once

/* Descriptor of the runtime directory: borrowed. */
int store_run_dirfd(void);
