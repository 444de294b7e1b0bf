/*
 * snapshot.json and the files beside it.
 */
#include "daemon/store/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "common/core/sparse.h"
#include "common/crypt.h"

enum {
	MANIFEST_MAX = 2 << 20,
	BLOCK = 64 << 10, /* of the sum */
};

void snapshot_done(struct snapshot *s)
{
	field_done(vm_view_fields, &s->vm);
	*s = (struct snapshot){0};
}

/* ---- snapshot.json ---- */

static int check_id(const void *value, const char *key, struct fcm_error *err)
{
	const char *s = value;

	return *s == '\0' || vm_id_valid(s)
		       ? 0
		       : fcm_fail_field(err, FCM_INVALID, key, "%s: an id is 8 of a-z and 0-9", key);
}

static int check_name(const void *value, const char *key, struct fcm_error *err)
{
	const char *s = value;
	struct asset_name name;

	return *s ? asset_name_parse(s, key, &name, err) : 0;
}

static const struct field fields[] = {
	F(struct snapshot, schema, FIELD_U32),
	F(struct snapshot, id, FIELD_CHARS, .check = check_id, .flags = FIELD_REQUIRED),
	F(struct snapshot, name, FIELD_CHARS, .check = check_name),
	F(struct snapshot, note, FIELD_CHARS),
	F(struct snapshot, created, FIELD_TIME),
	F(struct snapshot, parent, FIELD_CHARS, .check = check_id),
	F(struct snapshot, memory, FIELD_BOOL),
	F(struct snapshot, frozen, FIELD_BOOL),
	F(struct snapshot, pause_ms, FIELD_I64),
	FK("vmm", struct snapshot, machine.vmm, FIELD_CHARS),
	FK("vmm_version", struct snapshot, machine.vmm_version, FIELD_CHARS),
	FK("accel", struct snapshot, machine.accel, FIELD_CHARS),
	FK("cpu", struct snapshot, machine.cpu, FIELD_CHARS),
	FK("cpu_flags", struct snapshot, machine.cpu_flags, FIELD_CHARS),
	F(struct snapshot, vm, FIELD_OBJECT, .sub = vm_view_fields, .flags = FIELD_REQUIRED),
	FIELD_END,
};

static bool of_machine(const char *name)
{
	return strcmp(name, "state") == 0 || strcmp(name, "memory") == 0;
}

void snapshot_names(struct strv *ret)
{
	strv_add(ret, SNAPSHOT_DISK);
	strv_add(ret, "state");
	strv_add(ret, "memory");
	for (size_t i = 0; i < VM_MAX_VOLUMES; i++)
		strv_addf(ret, SNAPSHOT_VOLUME, i);
}

/* No name of ours leads anywhere: they are used as they are. */
static int check_file(const void *value, const char *key, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv names = {0};
	const char *s = value;

	snapshot_names(&names);
	return strv_has(&names, s)
		       ? 0
		       : fcm_fail_field(err, FCM_INVALID, key, "%s: '%s' is none of a snapshot", key, s);
}

static int check_sum(const void *value, const char *key, struct fcm_error *err)
{
	const char *s = value;

	return strlen(s) == 64 && strspn(s, "0123456789abcdef") == 64
		       ? 0
		       : fcm_fail_field(err, FCM_INVALID, key, "%s: a sum is 64 of 0-9 and a-f", key);
}

static const struct field file_fields[] = {
	F(struct snapshot_file, name, FIELD_CHARS, .check = check_file, .flags = FIELD_REQUIRED),
	F(struct snapshot_file, size, FIELD_I64, .min = 0, .max = INT64_MAX, .flags = FIELD_REQUIRED),
	F(struct snapshot_file, mtime_ns, FIELD_I64),
	F(struct snapshot_file, sum, FIELD_CHARS, .check = check_sum, .flags = FIELD_REQUIRED),
	FIELD_END,
};

field_json *snapshot_json(const struct snapshot *s, bool secrets)
{
	field_json *v = field_encode(fields, s, secrets), *files = fj_array();

	for (size_t i = 0; i < s->n_files; i++)
		fj_append(files, field_encode(file_fields, &s->files[i], secrets));
	fj_set(v, "files", files);
	return v;
}

const struct snapshot_file *snapshot_file(const struct snapshot *s, const char *name)
{
	for (size_t i = 0; i < s->n_files; i++)
		if (strcmp(s->files[i].name, name) == 0)
			return &s->files[i];
	return NULL;
}

static int decode_files(const field_json *array, struct snapshot *s, struct fcm_error *err)
{
	size_t n = fj_len(array);

	if (n > SNAPSHOT_FILES)
		return fcm_fail(err, FCM_CONFIG, "more than %d files", SNAPSHOT_FILES);
	for (; s->n_files < n; s->n_files++) {
		struct snapshot_file *f = &s->files[s->n_files];
		if (field_from_json(file_fields, fj_at(array, s->n_files), FIELD_DISK, f, err) < 0)
			return fcm_wrap(err, "file %zu", s->n_files + 1);
		if (snapshot_file(s, f->name))
			return fcm_fail(err, FCM_CONFIG, "'%s' is listed twice", f->name);
	}
	return 0;
}

static int decode(const struct buf *text, struct snapshot *s, struct fcm_error *err)
{
	auto_json field_json *v = fj_parse(text->p, text->n, err);

	if (v == NULL)
		return -1;
	if (fj_get_int(v, "schema", 0) > SNAPSHOT_SCHEMA)
		return fcm_fail(err, FCM_CONFIG, "schema %lld is newer than this fcmd, which knows %d",
			(long long)fj_get_int(v, "schema", 0), SNAPSHOT_SCHEMA);
	return field_from_json(fields, v, FIELD_DISK, s, err) < 0 ? -1
								  : decode_files(fj_get(v, "files"), s, err);
}

int snapshot_read(int dirfd, struct snapshot *ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct snapshot s = {0};

	if (file_read(dirfd, SNAPSHOT_MANIFEST, MANIFEST_MAX, &text, err) < 0)
		return -1;
	if (decode(&text, &s, err) < 0) {
		snapshot_done(&s);
		err->code = FCM_CONFIG;
		return fcm_wrap(err, SNAPSHOT_MANIFEST);
	}
	*ret = s;
	return 0;
}

/* ---- the files ---- */

static void add_block(struct crypt_blake2b *h, uint64_t number, const char *p, size_t n)
{
	uint8_t head[8];

	for (size_t i = 0; i < sizeof head; i++)
		head[i] = (uint8_t)(number >> (8 * i));
	crypt_blake2b_add(h, head, sizeof head);
	crypt_blake2b_add(h, p, n);
}

/* The blocks of which a part lies in from..to. Returns the end of the last one, or -1 with errno. */
static off_t add_extent(int fd, off_t from, off_t to, struct crypt_blake2b *h)
{
	char block[BLOCK];

	for (from -= from % BLOCK; from < to; from += BLOCK) {
		size_t n = 0;
		for (ssize_t k = 1; k > 0 && n < sizeof block; n += (size_t)MAX(k, 0))
			if ((k = pread(fd, block + n, sizeof block - n, from + (off_t)n)) < 0)
				return -1;
		if (!all_zeros(block, n))
			add_block(h, (uint64_t)(from / BLOCK), block, n);
	}
	return from;
}

int snapshot_sum(int fd, char ret[65], struct fcm_error *err)
{
	struct crypt_blake2b *h = crypt_blake2b_new();
	off_t data, end = 0;

	while (end >= 0 && (data = lseek(fd, end, SEEK_DATA)) >= 0) {
		off_t hole = lseek(fd, data, SEEK_HOLE);
		end = hole < 0 ? -1 : add_extent(fd, MAX(data, end), hole, h);
	}
	int error = end < 0 || errno != ENXIO ? errno : 0; /* ENXIO: no data behind that */
	crypt_blake2b_hex(h, ret);
	errno = error;
	return error ? fcm_fail_errno(err, "read a file of a snapshot") : 0;
}

static int64_t mtime_ns(const struct stat *st)
{
	return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

/* Its descriptor, or -1. */
static int open_file(int dirfd, const char *name, struct stat *ret, struct fcm_error *err)
{
	auto_close int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0 || fstat(fd, ret) < 0)
		return fcm_fail_errno(err, "open '%s' of the snapshot", name);
	if (!S_ISREG(ret->st_mode))
		return fcm_fail(err, FCM_CONFIG, "'%s' of the snapshot is no regular file", name);
	return STEAL_FD(fd);
}

static int note_file(int dirfd, const char *name, bool lasts, struct snapshot *s, struct fcm_error *err)
{
	struct snapshot_file *f = &s->files[s->n_files];
	struct stat st = {0};
	auto_close int fd = open_file(dirfd, name, &st, err);

	if (fd < 0)
		return -1;
	memset(f->sum, '0', sizeof f->sum - 1); /* no file's */
	if (lasts && snapshot_sum(fd, f->sum, err) < 0)
		return -1;
	if (lasts && fsync(fd) < 0)
		return fcm_fail_errno(err, "write '%s' of the snapshot", name);
	fcm_copy(f->name, sizeof f->name, name);
	f->size = st.st_size;
	f->mtime_ns = mtime_ns(&st);
	s->n_files++;
	return 0;
}

static int seal(int dirfd, bool lasts, struct snapshot *s, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv names = {0};

	s->schema = SNAPSHOT_SCHEMA;
	s->n_files = 0;
	if (dir_names(dirfd, &names, err) < 0)
		return -1;
	for (size_t i = 0; i < names.n; i++) {
		if (strcmp(names.v[i], SNAPSHOT_MANIFEST) == 0)
			continue;
		if (check_file(names.v[i], "file", err) < 0 || s->n_files == SNAPSHOT_FILES ||
			note_file(dirfd, names.v[i], lasts, s, err) < 0)
			return -1;
	}
	auto_json field_json *v = snapshot_json(s, true);
	auto_free char *text = fj_print(v, true);
	return lasts ? file_write_atomic(dirfd, SNAPSHOT_MANIFEST, 0600, text, strlen(text), err)
		     : file_replace(dirfd, SNAPSHOT_MANIFEST, 0600, text, strlen(text), err);
}

int snapshot_seal(int dirfd, struct snapshot *s, struct fcm_error *err)
{
	return seal(dirfd, true, s, err);
}

int snapshot_seal_passing(int dirfd, struct snapshot *s, struct fcm_error *err)
{
	return seal(dirfd, false, s, err);
}

/* Only root gets at the directory; a VMM, which has its machine's files bound into its jail, opens them as the VM's uid. */
int snapshot_take_over(int dirfd, struct snapshot *ret, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv names = {0};

	if (fchown(dirfd, 0, 0) < 0 || fchmod(dirfd, 0700) < 0)
		return fcm_fail_errno(err, "take the snapshot");
	if (dir_names(dirfd, &names, err) < 0)
		return -1;
	for (size_t i = 0; i < names.n; i++) {
		struct stat st;
		auto_close int fd = file_take_over(dirfd, names.v[i], &st, err);
		if (fd < 0)
			return fcm_wrap(err, "snapshot");
	}
	return snapshot_read(dirfd, ret, err);
}

static int check_same(const struct snapshot *s, const struct snapshot_file *f, struct fcm_error *err)
{
	const struct snapshot_file *have = snapshot_file(s, f->name);

	if (have == NULL)
		return fcm_fail(err, FCM_INVALID, "'%s' is missing", f->name);
	if (have->size != f->size)
		return fcm_fail(
			err, FCM_INVALID, "'%s' has another size than " SNAPSHOT_MANIFEST " says", f->name);
	return strcmp(have->sum, f->sum) == 0
		       ? 0
		       : fcm_fail(err, FCM_INVALID, "'%s' has another sum than " SNAPSHOT_MANIFEST " says",
				 f->name);
}

int snapshot_seal_same(int dirfd, struct snapshot *s, struct fcm_error *err)
{
	struct snapshot_file said[SNAPSHOT_FILES];
	size_t n = s->n_files;

	memcpy(said, s->files, sizeof said);
	if (snapshot_seal(dirfd, s, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (check_same(s, &said[i], err) < 0)
			return -1;
	return s->n_files == n ? 0 : fcm_fail(err, FCM_INVALID, "there is a file that isn't listed");
}

static int check_one(int dirfd, const struct snapshot_file *f, struct fcm_error *err)
{
	struct stat st;
	auto_close int fd = open_file(dirfd, f->name, &st, err);
	char sum[sizeof f->sum];

	if (fd < 0) {
		err->code = FCM_CONFIG;
		return -1;
	}
	if (st.st_size == f->size && mtime_ns(&st) == f->mtime_ns)
		return 0;
	if (snapshot_sum(fd, sum, err) < 0)
		return -1;
	return st.st_size == f->size && strcmp(sum, f->sum) == 0
		       ? 0
		       : fcm_fail(err, FCM_CONFIG, "'%s' of the snapshot has been changed", f->name);
}

int snapshot_check(int dirfd, const struct snapshot *s, bool machine, struct fcm_error *err)
{
	for (size_t i = 0; i < s->n_files; i++)
		if ((!machine || of_machine(s->files[i].name)) && check_one(dirfd, &s->files[i], err) < 0)
			return -1;
	return 0;
}

/* ---- can it go on here? ---- */

/* "1.12.1" and "1.12.0" are the same to their snapshots. */
static size_t minor_length(const char *version)
{
	size_t major = strcspn(version, ".");

	return version[major] ? major + 1 + strcspn(version + major + 1, ".") : major;
}

static bool same_minor(const char *a, const char *b)
{
	return minor_length(a) == minor_length(b) && strncmp(a, b, minor_length(a)) == 0;
}

int snapshot_fits(
	const struct snapshot_machine *saved, const struct snapshot_machine *here, struct fcm_error *err)
{
	const struct {
		const char *what, *theirs, *ours;
		bool same;
	} rules[] = {
		{"VMM", saved->vmm, here->vmm, strcmp(saved->vmm, here->vmm) == 0},
		{"version of the VMM", saved->vmm_version, here->vmm_version,
			same_minor(saved->vmm_version, here->vmm_version)},
		{"accelerator", saved->accel, here->accel, strcmp(saved->accel, here->accel) == 0},
		{"CPU", saved->cpu, here->cpu, strcmp(saved->cpu, here->cpu) == 0},
		{"set of CPU features", saved->cpu_flags, here->cpu_flags,
			strcmp(saved->cpu_flags, here->cpu_flags) == 0},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
		if (!rules[i].same)
			return fcm_fail(err, FCM_WRONG_STATE,
				"its memory was saved with another %s: '%.64s', and here it is '%.64s'",
				rules[i].what, rules[i].theirs, rules[i].ours);
	return 0;
}
