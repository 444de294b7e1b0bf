/*
 * The page of a new VM: "<host name> is running; put something of yours on port 8000".
 *
 * It must give way: `python3 -m http.server 8000` in the guest has to work as if the page weren't there. A
 * socket that listens on a port can't: bind(2) of everybody else fails. So the page listens somewhere else,
 * on a port of loopback that the kernel picks, and two small BPF programs connect it with the port:
 * - sk_lookup (kernel Documentation/bpf/prog_sk_lookup.rst) gives new connections to the port to the page's
 * socket, as long as the port isn't taken;
 * - post_bind on the root cgroup marks the port as taken as soon as any process binds it.
 * There is no race, nothing to poll, no module to load and no cost for other sockets' packets; both programs
 * go away with the process. Once taken, the port stays with the guest's owner until the next boot: what they
 * stop is gone, and no page pretends otherwise.
 *
 * The alternatives: a redirect by nftables where `socket` finds no listener needs a dozen modules, connection
 * tracking and about 0.2 s of each boot; a seccomp filter on bind(2) makes every bind in the guest fail if
 * the page dies.
 */
#pragma once

/* Serve the page on TCP port `port` (decimal, IPv4). Returns the exit status: 1 when the kernel can't do it,
 * 2 for a bad port; it doesn't return otherwise. */
int placeholder_run(const char *port);
