#include "images/agent/identity.h"

#include <fcntl.h>
#include <linux/random.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "images/agent/sockets.h"

/* ---- the request ---- */

static int digit_of(char c)
{
	static const char digits[] = "0123456789abcdef";
	const char *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) : -1;
}

/* Bytes in hex, small letters, `between` (or nothing, '\0') between two of them. Returns how many, or 0 when it is anything else
 * or more than `max`. */
static size_t parse_hex(const char *s, char between, uint8_t *ret, size_t max)
{
	for (size_t n = 0; n < max;) {
		int high = digit_of(s[0]), low = high < 0 ? -1 : digit_of(s[1]);
		if (low < 0)
			return 0;
		ret[n++] = (uint8_t)(high << 4 | low);
		s += 2;
		if (*s == '\0')
			return n;
		if (between && *s++ != between)
			return 0;
	}
	return 0;
}

/* Neither a group's nor nobody's: IEEE 802, section 8.2.2. */
static bool parse_mac(const char *s, uint8_t ret[NET_MAC_BYTES])
{
	static const uint8_t none[NET_MAC_BYTES];

	return parse_hex(s, ':', ret, NET_MAC_BYTES) == NET_MAC_BYTES && (ret[0] & 1) == 0 &&
	       memcmp(ret, none, sizeof none) != 0;
}

static bool parse_id(const char *s, char ret[IDENTITY_ID_DIGITS + 1])
{
	uint8_t bytes[IDENTITY_ID_DIGITS / 2];

	return parse_hex(s, '\0', bytes, sizeof bytes) == sizeof bytes &&
	       fcm_copy(ret, IDENTITY_ID_DIGITS + 1, s);
}

int identity_parse(const void *kv, size_t n, struct identity *ret, struct fcm_error *err)
{
	const char *entropy = kv_get(kv, n, "entropy"), *mac = kv_get(kv, n, "mac");
	const char *machine_id = kv_get(kv, n, "machine_id");
	struct identity id = {.has_mac = mac != NULL};

	if (entropy)
		id.entropy_bytes = parse_hex(entropy, '\0', id.entropy, sizeof id.entropy);
	if (id.entropy_bytes < IDENTITY_ENTROPY_MIN)
		return fcm_fail_field(err, FCM_INVALID, "entropy", "entropy: not %d to %d bytes in hex",
			IDENTITY_ENTROPY_MIN, IDENTITY_ENTROPY_MAX);
	if (mac && !parse_mac(mac, id.mac))
		return fcm_fail_field(err, FCM_INVALID, "mac", "mac: not one like 52:54:00:12:34:56");
	if (machine_id && !parse_id(machine_id, id.machine_id))
		return fcm_fail_field(err, FCM_INVALID, "machine_id", "machine_id: not 32 digits of hex");
	*ret = id;
	return 0;
}

/* ---- its parts ---- */

/* The kernel's pool takes them in, and every generator of random numbers begins anew with what is in there: random(4). */
static int stir(const struct identity *id, struct fcm_error *err)
{
	union {
		struct rand_pool_info head;
		uint8_t bytes[sizeof(struct rand_pool_info) + IDENTITY_ENTROPY_MAX];
	} pool = {.head = {.entropy_count = (int)id->entropy_bytes * 8, .buf_size = (int)id->entropy_bytes}};
	auto_close int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);

	memcpy(pool.head.buf, id->entropy, id->entropy_bytes);
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
		return fcm_fail_errno(err, "give the kernel other random numbers");
	return 0;
}

int identity_write_id(const char *path, const char *id, struct fcm_error *err)
{
	char line[IDENTITY_ID_DIGITS + 2];
	struct stat st;

	if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return 0;
	(void)fcm_format(line, sizeof line, "%s\n", id);
	return file_write_atomic(AT_FDCWD, path, st.st_mode & 0777, line, strlen(line), err);
}

static int write_ids(const char *id, struct fcm_error *err)
{
	if (id[0] == '\0')
		return 0;
	return identity_write_id("/etc/machine-id", id, err) < 0
		       ? -1
		       : identity_write_id("/var/lib/dbus/machine-id", id, err);
}

/* Those that the kernel can't close can't send any more, either: their address is gone. */
static void close_connections(struct buf *results)
{
	struct fcm_error err;
	int closed = sockets_close(&err);

	if (closed < 0)
		kv_add(results, "open", err.msg);
	else
		kv_addf(results, "closed", "%d", closed);
}

int identity_apply(
	const struct identity *id, struct guest_net *have, struct buf *results, struct fcm_error *err)
{
	if (stir(id, err) < 0 || net_leave(have, err) < 0)
		return -1;
	close_connections(results);
	if (id->has_mac && net_set_mac(id->mac, err) < 0)
		return -1;
	return write_ids(id->machine_id, err);
}
