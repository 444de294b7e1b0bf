/*
 * OCI_DIR, where a job makes its results. All names in it are ours.
 */
#pragma once

#include <stdbool.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* A new file, to read and write: its descriptor, or -1. */
int place_create(const char *name, struct fcm_error *err) must_check;

/* A new file with these bytes. */
int place_save(const char *name, const struct buf *b, struct fcm_error *err) must_check;

/* Remove a file. */
int place_remove(const char *name, struct fcm_error *err) must_check;

/* Is the layer of that name here already, in OCI_DIR or in OCI_LAYERS? */
bool place_has_layer(const char *name);
