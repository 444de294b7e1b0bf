/*
 * Sites as a whole, and that of the API; those of one VM are steps (step_want, step_site).
 */
#pragma once

#include "common/core/error.h"
#include "common/model.h"

/* Once, when the network and Caddy are set up and before anything serves: what the API's public name is (config api_domain),
 * which then stays. FCM_CONFIG. */
int site_init(struct fcm_error *err) must_check;

/* The API's public name, or "". */
const char *site_api_domain(void);

/* Is that domain the API's? Would a VM of that name, by its name alone, get it? */
bool site_is_api(const char *domain);
bool site_name_is_api(const char *name);

/* How its site is: as of a VM, without a port. All empty without one, and before site_init(). */
void site_api(struct vm_expose *ret);

/* When it is pending: try again, on a thread of its own. Is it pending? */
bool site_api_retry(void);

/* Make Caddy's fcm.d hold exactly the sites of the VMs there are, on a thread of its own: with one reload,
 * and with none when nothing differs. */
void site_sync(void);
