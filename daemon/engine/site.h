/*
 * Sites as a whole; those of one VM are steps (step_want, step_site).
 */
#pragma once

/* Make Caddy's fcm.d hold exactly the sites of the VMs there are, on a thread of its own: with one reload,
 * and with none when nothing differs. */
void site_sync(void);
