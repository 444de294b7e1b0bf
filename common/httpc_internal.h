/*
 * Between httpc.c (requests to the daemon, tunnels) and httpc_download.c (files from other people's servers).
 */
#pragma once

#include <curl/curl.h>

/* What every transfer sets: the URL, where libcurl writes why it failed (CURL_ERROR_SIZE bytes, which must live as long
 * as the handle is used), time to connect, HTTP/1.1, and the CA file of SSL_CERT_FILE. */
void httpc_set_common(CURL *curl, const char *url, char *why);
