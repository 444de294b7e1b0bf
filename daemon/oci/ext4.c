#include "daemon/oci/ext4.h"

#include <errno.h>
#include <et/com_err.h>
#include <ext2fs/ext2fs.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	BLOCK = 4096,
	INODE = 256,
	GROUP_BLOCKS = 8 * BLOCK, /* a bitmap of one block each: the most that a group can have */
	GROUP_INODES = GROUP_BLOCKS - BLOCK,
	GROUP_OVERHEAD =
		2 +
		2 * 1024, /* its bitmaps, and superblock and descriptors where they are repeated: more than enough */
	TAIL = sizeof(struct ext2_dir_entry_tail),
	EXTENT_BLOCKS = 32768,	 /* the most of one extent */
	EXTENTS_PER_BLOCK = 100, /* at least: the library splits full blocks in halves of 170 */
	DIR_LINKS = 65000,	 /* with more subdirectories the count is 1 (dir_nlink) */
	FAST_LINK = 60,		 /* a shorter link stands in the inode */
	EXTRA = 32,		 /* bytes of the inode's second half that are used */
	TRIES = 8,
};

/* Beyond it the extra bits of a time stamp have no more room: the year 2446. */
#define TIME_MAX (((int64_t)1 << 34) + INT32_MIN - 1)

struct ext4 {
	ext2_filsys fs;
	int fd;
	blk64_t next; /* where to look for a free block */

	/* The inode that is being filled: */
	ext2_ino_t number;
	struct ext2_inode_large inode;
	ext2_extent_handle_t extents;
	struct ext2fs_extent run; /* the last of its extents, not yet inserted; e_len 0: none */
	blk64_t blocks;		  /* of its data */
};

static int fail_ext(errcode_t code, const char *what, struct fcm_error *err)
{
	if (code == 0)
		return 0;
	if (code > 0 && code < 256) {
		errno = (int)code;
		return fcm_fail_errno(err, "%s", what);
	}
	return fcm_fail(err, FCM_HOST, "%s: %s", what, error_message(code));
}

/* ---- how large it has to be ---- */

static size_t dir_entry_size(size_t name)
{
	return EXT2_DIR_REC_LEN(name);
}

/* Blocks of a directory: entries don't cross them. */
static uint64_t dir_blocks(const struct rootfs_node *dir)
{
	uint64_t blocks = 1;
	size_t used = dir_entry_size(1) + dir_entry_size(2);
	const struct rootfs_node *k = NULL;

	TAILQ_FOREACH(k, &dir->children, sibling)
	{
		size_t n = dir_entry_size(strlen(k->name));
		if (used + n > BLOCK - TAIL)
			blocks++, used = 0;
		used += n;
	}
	return blocks;
}

/* With room for its extents beyond the four in the inode, each piece its own in the worst case. */
static uint64_t file_blocks(const struct rootfs_inode *i)
{
	uint64_t pieces = i->used / ROOTFS_PIECE;

	return i->used / BLOCK + (pieces > 4 ? pieces / EXTENTS_PER_BLOCK + 2 : 0);
}

static uint64_t blocks_of(const struct rootfs_node *n)
{
	const struct rootfs_inode *i = n->inode;
	uint64_t blocks = i->xattrs ? 1 : 0;

	if (S_ISDIR(i->mode))
		return blocks + dir_blocks(n) * 2; /* and its extents, when it is very large */
	if (S_ISREG(i->mode))
		return blocks + file_blocks(i);
	return blocks + (S_ISLNK(i->mode) && strlen(i->target) >= FAST_LINK);
}

struct need {
	uint64_t blocks;
	uint32_t inodes; /* with the reserved ones */
};

/* Give each inode its number, in the order of the tree, and count. */
static struct need number_inodes(struct rootfs *t)
{
	struct need need = {.inodes = EXT2_GOOD_OLD_FIRST_INO - 1};

	for (struct rootfs_node *n = rootfs_root(t); n; n = rootfs_walk(n)) {
		if (n->inode->number)
			continue;
		n->inode->number = n->parent ? ++need.inodes : EXT2_ROOT_INO;
		need.blocks += blocks_of(n);
	}
	return need;
}

/* ---- an empty file system ---- */

static struct ext2_super_block parameters(uint64_t blocks, uint32_t inodes)
{
	struct ext2_super_block p = {
		.s_rev_level = EXT2_DYNAMIC_REV,
		.s_log_block_size = 2,
		.s_log_cluster_size = 2,
		.s_inode_size = INODE,
		.s_min_extra_isize = EXTRA,
		.s_want_extra_isize = EXTRA,
		.s_inodes_count = inodes,
		.s_feature_compat = EXT2_FEATURE_COMPAT_EXT_ATTR,
		.s_feature_incompat = EXT2_FEATURE_INCOMPAT_FILETYPE | EXT3_FEATURE_INCOMPAT_EXTENTS,
		.s_feature_ro_compat = EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER |
				       EXT2_FEATURE_RO_COMPAT_LARGE_FILE | EXT4_FEATURE_RO_COMPAT_HUGE_FILE |
				       EXT4_FEATURE_RO_COMPAT_DIR_NLINK | EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE |
				       EXT4_FEATURE_RO_COMPAT_METADATA_CSUM,
	};

	ext2fs_blocks_count_set(&p, blocks);
	return p;
}

/* What the library would take from clock and chance. Whoever makes checksums has to know the UUID first. */
static void set_identity(ext2_filsys fs, const unsigned char seed[EXT4_SEED])
{
	struct ext2_super_block *s = fs->super;

	fs->now = 1; /* 0 would be the clock */
	s->s_mkfs_time = s->s_lastcheck = 1;
	s->s_max_mnt_count = (uint16_t)-1;
	s->s_checkinterval = 0;
	memcpy(s->s_uuid, seed, sizeof s->s_uuid);
	memcpy(s->s_hash_seed, seed + sizeof s->s_uuid, sizeof s->s_hash_seed);
	s->s_checksum_type = EXT2_CRC32C_CHKSUM;
	ext2fs_init_csum_seed(fs);
}

/* The file is all zeros, and so are its inode tables. */
static void note_zeros(ext2_filsys fs)
{
	for (dgrp_t g = 0; g < fs->group_desc_count; g++) {
		ext2fs_bg_flags_set(fs, g, EXT2_BG_INODE_ZEROED);
		ext2fs_group_desc_csum_set(fs, g);
	}
}

static int make_fs(int fd, uint64_t blocks, uint32_t inodes, const unsigned char seed[EXT4_SEED],
	ext2_filsys *ret, struct fcm_error *err)
{
	struct ext2_super_block p = parameters(blocks, inodes);
	auto_close int copy =
		fcntl(fd, F_DUPFD_CLOEXEC, 0); /* which the library closes, once it has a channel */
	char name[16];

	if (copy < 0 || ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)(blocks * BLOCK)) < 0)
		return fcm_fail_errno(
			err, "make an empty file of %llu bytes", (unsigned long long)blocks * BLOCK);
	fcm_format(name, sizeof name, "%d", copy);
	errcode_t r =
		ext2fs_initialize(name, EXT2_FLAG_EXCLUSIVE | EXT2_FLAG_64BITS, &p, unixfd_io_manager, ret);
	if (r)
		return fail_ext(r, "make a file system", err);
	(void)STEAL_FD(copy);
	set_identity(*ret, seed);
	r = ext2fs_allocate_tables(*ret);
	if (r) {
		ext2fs_free(*ret);
		return fail_ext(r, "make a file system", err);
	}
	note_zeros(*ret);
	return 0;
}

/* Large enough for what is needed: how much its own tables take is known once it is made. */
static int make_fitting(int fd, struct need need, const unsigned char seed[EXT4_SEED], ext2_filsys *ret,
	struct fcm_error *err)
{
	uint64_t groups = need.inodes / GROUP_INODES + 1;
	uint64_t blocks = MAX(need.blocks + need.inodes / (BLOCK / INODE) + 64,
		(groups - 1) * GROUP_BLOCKS + GROUP_OVERHEAD);

	for (int i = 0; i < TRIES; i++) {
		if (blocks > UINT32_MAX)
			break;
		if (make_fs(fd, blocks, need.inodes, seed, ret, err) < 0)
			return -1;
		uint64_t available = ext2fs_free_blocks_count((*ret)->super);
		if (available >= need.blocks && (*ret)->super->s_inodes_count >= need.inodes)
			return 0;
		blocks += available < need.blocks ? need.blocks - available + blocks / GROUP_BLOCKS
						  : GROUP_BLOCKS;
		ext2fs_free(*ret);
	}
	return fcm_fail(err, FCM_TOO_LARGE, "the image doesn't fit into a file system");
}

/* ---- one inode ---- */

static void set_time(uint32_t *low, uint32_t *extra, int64_t s, uint32_t ns)
{
	*low = (uint32_t)s;
	*extra = (uint32_t)(((s - (int32_t)s) >> 32) & 3) | ns << 2;
}

static void begin_inode(struct ext4 *e, const struct rootfs_inode *i)
{
	struct ext2_inode_large *n = &e->inode;
	int64_t mtime = MAX(MIN(i->mtime, TIME_MAX), (int64_t)INT32_MIN);

	memset(n, 0, sizeof *n);
	n->i_mode = (uint16_t)i->mode;
	n->i_uid = (uint16_t)i->uid;
	n->i_gid = (uint16_t)i->gid;
	n->osd2.linux2.l_i_uid_high = (uint16_t)(i->uid >> 16);
	n->osd2.linux2.l_i_gid_high = (uint16_t)(i->gid >> 16);
	n->i_links_count = (uint16_t)i->links;
	n->i_extra_isize = EXTRA;
	set_time(&n->i_mtime, &n->i_mtime_extra, mtime, i->mtime_ns);
	set_time(&n->i_ctime, &n->i_ctime_extra, mtime, i->mtime_ns);
	set_time(&n->i_atime, &n->i_atime_extra, mtime, i->mtime_ns);
	set_time(&n->i_crtime, &n->i_crtime_extra, mtime, i->mtime_ns);
	e->number = i->number;
	e->blocks = 0;
	e->run.e_len = 0;
}

static int write_inode(struct ext4 *e, struct fcm_error *err)
{
	return fail_ext(
		ext2fs_write_inode_full(e->fs, e->number, (struct ext2_inode *)&e->inode, sizeof e->inode),
		"write an inode", err);
}

/* From here on blocks may be added. The library reads what is on the disk. */
static int open_extents(struct ext4 *e, uint64_t size, struct fcm_error *err)
{
	e->inode.i_flags |= EXT4_EXTENTS_FL;
	e->inode.i_size = (uint32_t)size;
	e->inode.i_size_high = (uint32_t)(size >> 32);
	if (write_inode(e, err) < 0)
		return -1;
	return fail_ext(ext2fs_extent_open2(e->fs, e->number, (struct ext2_inode *)&e->inode, &e->extents),
		"begin a file", err);
}

static int insert_run(struct ext4 *e, struct fcm_error *err)
{
	errcode_t r = e->run.e_len ? ext2fs_extent_insert(e->extents, EXT2_EXTENT_INSERT_AFTER, &e->run) : 0;

	e->run.e_len = 0;
	return fail_ext(r, "map a file", err);
}

/* Up to n free blocks that follow each other, marked as used, for the inode's block `logical` and what follows. */
static int take_blocks(
	struct ext4 *e, blk64_t logical, unsigned n, blk64_t *ret, unsigned *ret_n, struct fcm_error *err)
{
	blk64_t end = ext2fs_blocks_count(e->fs->super) - 1, used;
	errcode_t r = ext2fs_find_first_zero_block_bitmap2(e->fs->block_map, e->next, end, ret);

	if (r)
		return fcm_fail(err, FCM_INTERNAL, "the image is larger than was counted");
	if (ext2fs_find_first_set_block_bitmap2(e->fs->block_map, *ret, MIN(*ret + n - 1, end), &used) == 0)
		n = (unsigned)(used - *ret);
	else
		n = (unsigned)MIN((blk64_t)n, end - *ret + 1);
	ext2fs_block_alloc_stats_range(e->fs, *ret, n, 1);
	e->next = *ret + n;
	e->blocks += n;
	*ret_n = n;
	struct ext2fs_extent *run = &e->run;
	if (run->e_len && run->e_lblk + run->e_len == logical && run->e_pblk + run->e_len == *ret &&
		run->e_len + n < EXTENT_BLOCKS) {
		run->e_len += n;
		return 0;
	}
	if (insert_run(e, err) < 0)
		return -1;
	*run = (struct ext2fs_extent){.e_lblk = logical, .e_pblk = *ret, .e_len = n};
	return 0;
}

static int finish_extents(struct ext4 *e, struct fcm_error *err)
{
	int r = insert_run(e, err);

	ext2fs_extent_free(e->extents);
	e->extents = NULL;
	if (r < 0)
		return -1;
	r = fail_ext(ext2fs_iblk_add_blocks(e->fs, (struct ext2_inode *)&e->inode, e->blocks), "count blocks",
		err);
	return r < 0 ? -1 : write_inode(e, err);
}

static int write_all_at(int fd, const char *p, size_t n, uint64_t at, struct fcm_error *err)
{
	while (n > 0) {
		ssize_t k = pwrite(fd, p, n, (off_t)at);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return fcm_fail_errno(err, "write the file system");
		p += k, n -= (size_t)k, at += (size_t)k;
	}
	return 0;
}

/* n bytes from `at` on, a multiple of the block size. What is left of the last block is zeros already. */
static int put_bytes(struct ext4 *e, uint64_t at, const char *p, size_t n, struct fcm_error *err)
{
	while (n > 0) {
		unsigned got;
		blk64_t block;
		if (take_blocks(e, at / BLOCK, (unsigned)((n + BLOCK - 1) / BLOCK), &block, &got, err) < 0)
			return -1;
		size_t k = MIN(n, (size_t)got * BLOCK);
		if (write_all_at(e->fd, p, k, block * BLOCK, err) < 0)
			return -1;
		p += k, n -= k, at += k;
	}
	return 0;
}

/* ---- directories ---- */

struct dir_writer {
	struct ext4 *e;
	char block[BLOCK];
	size_t used;		     /* of the block */
	struct ext2_dir_entry *last; /* in the block; NULL: it is empty */
	blk64_t logical;
};

static unsigned char file_type(mode_t mode)
{
	static const struct {
		mode_t mode;
		unsigned char type;
	} types[] = {{S_IFREG, EXT2_FT_REG_FILE}, {S_IFDIR, EXT2_FT_DIR}, {S_IFLNK, EXT2_FT_SYMLINK},
		{S_IFCHR, EXT2_FT_CHRDEV}, {S_IFBLK, EXT2_FT_BLKDEV}, {S_IFIFO, EXT2_FT_FIFO}};

	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (types[i].mode == (mode & S_IFMT))
			return types[i].type;
	return EXT2_FT_UNKNOWN;
}

/* The last entry reaches to the tail, which has the checksum. */
static int write_dir_block(struct dir_writer *w, struct fcm_error *err)
{
	struct ext4 *e = w->e;
	blk64_t block;
	unsigned n;

	if (take_blocks(e, w->logical++, 1, &block, &n, err) < 0)
		return -1;
	w->last->rec_len = (uint16_t)(BLOCK - TAIL - ((char *)w->last - w->block));
	ext2fs_initialize_dirent_tail(e->fs, EXT2_DIRENT_TAIL(w->block, BLOCK));
	errcode_t r = ext2fs_write_dir_block4(e->fs, block, w->block, 0, e->number);
	memset(w->block, 0, sizeof w->block);
	w->used = 0;
	w->last = NULL;
	return fail_ext(r, "write a directory", err);
}

static int add_name(
	struct dir_writer *w, const char *name, const struct rootfs_inode *i, struct fcm_error *err)
{
	size_t n = strlen(name), size = dir_entry_size(n);

	if (w->used + size > BLOCK - TAIL && write_dir_block(w, err) < 0)
		return -1;
	struct ext2_dir_entry *d = (struct ext2_dir_entry *)(void *)(w->block + w->used);
	d->inode = i->number;
	d->rec_len = (uint16_t)size;
	ext2fs_dirent_set_name_len(d, (int)n);
	ext2fs_dirent_set_file_type(d, file_type(i->mode));
	memcpy(d->name, name, n);
	w->used += size;
	w->last = d;
	return 0;
}

static int write_dir(struct ext4 *e, const struct rootfs_node *dir, struct fcm_error *err)
{
	struct dir_writer w = {.e = e};
	const struct rootfs_node *k = NULL, *parent = dir->parent ? dir->parent : dir;
	uint32_t links = 2;

	TAILQ_FOREACH(k, &dir->children, sibling)
	links += S_ISDIR(k->inode->mode);
	e->inode.i_links_count = (uint16_t)(links > DIR_LINKS ? 1 : links);
	if (open_extents(e, dir_blocks(dir) * BLOCK, err) < 0 || add_name(&w, ".", dir->inode, err) < 0 ||
		add_name(&w, "..", parent->inode, err) < 0)
		return -1;
	TAILQ_FOREACH(k, &dir->children, sibling)
	if (add_name(&w, k->name, k->inode, err) < 0)
		return -1;
	return write_dir_block(&w, err) < 0 ? -1 : finish_extents(e, err);
}

/* ---- other inodes ---- */

static int write_symlink(struct ext4 *e, const char *target, struct fcm_error *err)
{
	size_t n = strlen(target);

	if (n < FAST_LINK) {
		e->inode.i_size = (uint32_t)n;
		memcpy(e->inode.i_block, target, n);
		return write_inode(e, err);
	}
	if (open_extents(e, n, err) < 0 || put_bytes(e, 0, target, n, err) < 0)
		return -1;
	return finish_extents(e, err);
}

/* As the kernel packs a dev_t: in 16 bits where it fits (old_encode_dev()), else in 32 (new_encode_dev()). */
static int write_device(struct ext4 *e, unsigned major, unsigned minor, struct fcm_error *err)
{
	if (major < 256 && minor < 256)
		e->inode.i_block[0] = major << 8 | minor;
	else
		e->inode.i_block[1] = (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
	return write_inode(e, err);
}

static int write_xattrs(struct ext4 *e, const struct rootfs_xattr *list, struct fcm_error *err)
{
	struct ext2_xattr_handle *h;
	errcode_t r = ext2fs_xattrs_open(e->fs, e->number, &h);

	if (r)
		return fail_ext(r, "set extended attributes", err);
	for (const struct rootfs_xattr *x = list; r == 0 && x; x = x->next)
		r = ext2fs_xattr_set(h, x->name, x->value, x->n);
	if (r == 0 && list)
		r = ext2fs_xattrs_write(h);
	ext2fs_xattrs_close(&h);
	return fail_ext(r, "set extended attributes", err);
}

static int write_node(struct ext4 *e, const struct rootfs_node *n, struct fcm_error *err)
{
	const struct rootfs_inode *i = n->inode;
	int r;

	ext2fs_inode_alloc_stats2(e->fs, i->number, 1, S_ISDIR(i->mode));
	begin_inode(e, i);
	if (S_ISDIR(i->mode))
		r = write_dir(e, n, err);
	else if (S_ISREG(i->mode))
		r = open_extents(e, i->size, err) < 0 ? -1 : finish_extents(e, err);
	else if (S_ISLNK(i->mode))
		r = write_symlink(e, i->target, err);
	else
		r = write_device(e, i->major, i->minor, err);
	return r < 0 || i->xattrs == NULL ? r : write_xattrs(e, i->xattrs, err);
}

/* The inodes that the format reserves are used and empty. Each of the tree is written by its first name. */
static int write_nodes(struct ext4 *e, struct rootfs *t, struct fcm_error *err)
{
	uint32_t written = EXT2_GOOD_OLD_FIRST_INO - 1;

	for (ext2_ino_t i = 1; i < EXT2_GOOD_OLD_FIRST_INO; i++)
		if (i != EXT2_ROOT_INO)
			ext2fs_inode_alloc_stats2(e->fs, i, 1, 0);
	for (struct rootfs_node *n = rootfs_root(t); n; n = rootfs_walk(n)) {
		if (n->parent && n->inode->number <= written)
			continue;
		if (write_node(e, n, err) < 0)
			return -1;
		written = MAX(written, n->inode->number);
	}
	return 0;
}

/* ---- the contents of files ---- */

/* The inode as it was written, with its attributes. */
static int begin_file(void *arg, struct rootfs_inode *i, struct fcm_error *err)
{
	struct ext4 *e = arg;

	begin_inode(e, i);
	errcode_t r =
		ext2fs_read_inode_full(e->fs, e->number, (struct ext2_inode *)&e->inode, sizeof e->inode);
	if (r)
		return fail_ext(r, "read an inode", err);
	return fail_ext(ext2fs_extent_open2(e->fs, e->number, (struct ext2_inode *)&e->inode, &e->extents),
		"begin a file", err);
}

static int put_piece(void *arg, uint64_t at, const void *p, size_t n, struct fcm_error *err)
{
	return put_bytes(arg, at, p, n, err);
}

static int end_file(void *arg, struct fcm_error *err)
{
	return finish_extents(arg, err);
}

struct layer_sink ext4_sink(struct ext4 *e)
{
	return (struct layer_sink){.begin = begin_file, .piece = put_piece, .end = end_file, .arg = e};
}

/* ---- the whole ---- */

int ext4_new(int fd, struct rootfs *t, const unsigned char seed[EXT4_SEED], struct ext4 **ret,
	struct fcm_error *err)
{
	struct ext4 *e = xalloc(sizeof *e);

	initialize_ext2_error_table();
	e->fd = fd;
	if (make_fitting(fd, number_inodes(t), seed, &e->fs, err) < 0) {
		free(e);
		return -1;
	}
	e->next = e->fs->super->s_first_data_block;
	if (write_nodes(e, t, err) < 0) {
		ext4_free(e);
		return -1;
	}
	*ret = e;
	return 0;
}

int ext4_finish(struct ext4 *e, uint64_t *ret_size, struct fcm_error *err)
{
	*ret_size = ext2fs_blocks_count(e->fs->super) * BLOCK;
	errcode_t r = ext2fs_close2(e->fs, 0);
	if (r == 0)
		e->fs = NULL;
	ext4_free(e);
	return fail_ext(r, "finish the file system", err);
}

void ext4_free(struct ext4 *e)
{
	if (e == NULL)
		return;
	if (e->extents)
		ext2fs_extent_free(e->extents);
	if (e->fs)
		ext2fs_free(e->fs);
	free(e);
}
