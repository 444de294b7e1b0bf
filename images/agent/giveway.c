#include "images/agent/giveway.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* Instructions, named as in the kernel's include/linux/filter.h. */
#define MOV_REG(d, s)                                                                                        \
	{                                                                                                    \
		.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = (d), .src_reg = (s)                          \
	}
#define MOV_IMM(d, i)                                                                                        \
	{                                                                                                    \
		.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = (d), .imm = (i)                              \
	}
#define ADD_IMM(d, i)                                                                                        \
	{                                                                                                    \
		.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = (d), .imm = (i)                              \
	}
#define LOAD_U32(d, s, o)                                                                                    \
	{                                                                                                    \
		.code = BPF_LDX | BPF_W | BPF_MEM, .dst_reg = (d), .src_reg = (s), .off = (o)                \
	}
#define STORE_U32(d, o, i)                                                                                   \
	{                                                                                                    \
		.code = BPF_ST | BPF_W | BPF_MEM, .dst_reg = (d), .off = (o), .imm = (i)                     \
	}
#define JUMP_NE(d, i, o)                                                                                     \
	{                                                                                                    \
		.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = (d), .off = (o), .imm = (i)                    \
	}
#define JUMP_EQ(d, i, o)                                                                                     \
	{                                                                                                    \
		.code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = (d), .off = (o), .imm = (i)                    \
	}
#define CALL(f)                                                                                              \
	{                                                                                                    \
		.code = BPF_JMP | BPF_CALL, .imm = (f)                                                       \
	}
#define EXIT                                                                                                 \
	{                                                                                                    \
		.code = BPF_JMP | BPF_EXIT                                                                   \
	}
#define LOAD_MAP(d, fd)                                                                                      \
	{.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = (d), .src_reg = BPF_PSEUDO_MAP_FD, .imm = (fd)},      \
	{                                                                                                    \
		.code = 0                                                                                    \
	}
/* r0 = address of entry 0 of the map, or 0: six instructions. */
#define LOOKUP(fd)                                                                                           \
	STORE_U32(BPF_REG_10, -4, 0), LOAD_MAP(BPF_REG_1, fd), MOV_REG(BPF_REG_2, BPF_REG_10),               \
		ADD_IMM(BPF_REG_2, -4), CALL(BPF_FUNC_map_lookup_elem)

static int bpf(enum bpf_cmd cmd, union bpf_attr *attr)
{
	return (int)syscall(SYS_bpf, cmd, attr, sizeof *attr);
}

/* A map of one entry. BPF descriptors are CLOEXEC by themselves. */
static int make_map(enum bpf_map_type type, uint32_t value_size)
{
	union bpf_attr a = {.map_type = type, .key_size = 4, .value_size = value_size, .max_entries = 1};

	return bpf(BPF_MAP_CREATE, &a);
}

static int put(int map, const void *value)
{
	const uint32_t key = 0;
	union bpf_attr a = {.map_fd = (uint32_t)map, .key = (uintptr_t)&key, .value = (uintptr_t)value};

	return bpf(BPF_MAP_UPDATE_ELEM, &a);
}

static int load(enum bpf_prog_type type, enum bpf_attach_type attach, const struct bpf_insn *code, size_t n)
{
	union bpf_attr a = {.prog_type = type,
		.expected_attach_type = attach,
		.insns = (uintptr_t)code,
		.insn_cnt = (uint32_t)n,
		.license = (uintptr_t) "MIT"};

	return bpf(BPF_PROG_LOAD, &a);
}

/* The link is the descriptor: it is left open, and ends with the process. */
static int attach(int prog, const char *target, enum bpf_attach_type type)
{
	auto_close int fd = open(target, O_RDONLY | O_CLOEXEC);
	union bpf_attr a = {
		.link_create = {.prog_fd = (uint32_t)prog, .target_fd = (uint32_t)fd, .attach_type = type}};

	return fd < 0 ? -1 : bpf(BPF_LINK_CREATE, &a);
}

/* if (tcp && local_port == port && !taken[0]) assign(ctx, sockets[0]); return SK_PASS */
static int lend(int taken, int sockets, uint16_t port)
{
	const struct bpf_insn code[] = {
		/* 0 */ MOV_REG(BPF_REG_6, BPF_REG_1),
		/* 1 */ LOAD_U32(BPF_REG_0, BPF_REG_6, offsetof(struct bpf_sk_lookup, protocol)),
		/* 2 */ JUMP_NE(BPF_REG_0, IPPROTO_TCP, 28 - 3),
		/* 3 */ LOAD_U32(BPF_REG_0, BPF_REG_6, offsetof(struct bpf_sk_lookup, local_port)),
		/* 4 */ JUMP_NE(BPF_REG_0, port, 28 - 5),
		/* 5 */ LOOKUP(taken),
		/* 11 */ JUMP_EQ(BPF_REG_0, 0, 28 - 12),
		/* 12 */ LOAD_U32(BPF_REG_0, BPF_REG_0, 0),
		/* 13 */ JUMP_NE(BPF_REG_0, 0, 28 - 14),
		/* 14 */ LOOKUP(sockets),
		/* 20 */ JUMP_EQ(BPF_REG_0, 0, 28 - 21),
		/* 21 */ MOV_REG(BPF_REG_7, BPF_REG_0),
		/* 22 */ MOV_REG(BPF_REG_1, BPF_REG_6),
		/* 23 */ MOV_REG(BPF_REG_2, BPF_REG_7),
		/* 24 */ MOV_IMM(BPF_REG_3, 0),
		/* 25 */ CALL(BPF_FUNC_sk_assign),
		/* 26 */ MOV_REG(BPF_REG_1, BPF_REG_7),
		/* 27 */ CALL(BPF_FUNC_sk_release),
		/* 28 */ MOV_IMM(BPF_REG_0, SK_PASS),
		/* 29 */ EXIT,
	};
	auto_close int prog = load(BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP, code, ARRAY_SIZE(code));

	return prog < 0 ? -1 : attach(prog, "/proc/self/ns/net", BPF_SK_LOOKUP);
}

/* if (stream && src_port == port) taken[0] = 1; return 1 (allow) */
static int watch(int taken, uint16_t port, enum bpf_attach_type type)
{
	const struct bpf_insn code[] = {
		/* 0 */ MOV_REG(BPF_REG_6, BPF_REG_1),
		/* 1 */ LOAD_U32(BPF_REG_0, BPF_REG_6, offsetof(struct bpf_sock, type)),
		/* 2 */ JUMP_NE(BPF_REG_0, SOCK_STREAM, 13 - 3),
		/* 3 */ LOAD_U32(BPF_REG_0, BPF_REG_6, offsetof(struct bpf_sock, src_port)),
		/* 4 */ JUMP_NE(BPF_REG_0, port, 13 - 5),
		/* 5 */ LOOKUP(taken),
		/* 11 */ JUMP_EQ(BPF_REG_0, 0, 13 - 12),
		/* 12 */ STORE_U32(BPF_REG_0, 0, 1),
		/* 13 */ MOV_IMM(BPF_REG_0, 1),
		/* 14 */ EXIT,
	};
	auto_close int prog = load(BPF_PROG_TYPE_CGROUP_SOCK, type, code, ARRAY_SIZE(code));

	return prog < 0 ? -1 : attach(prog, "/sys/fs/cgroup", type);
}

/* The watches first: between them and the loan a bind is seen already. */
int giveway_lend(int listener, uint16_t port, struct fcm_error *err)
{
	const uint64_t sock = (uint64_t)listener;
	auto_close int taken = make_map(BPF_MAP_TYPE_ARRAY, 4);
	auto_close int sockets = make_map(BPF_MAP_TYPE_SOCKMAP, 8);

	if (taken < 0 || sockets < 0 || put(sockets, &sock) < 0)
		return fcm_fail_errno(err, "make a BPF map");
	if (watch(taken, port, BPF_CGROUP_INET4_POST_BIND) < 0 ||
		watch(taken, port, BPF_CGROUP_INET6_POST_BIND) < 0)
		return fcm_fail_errno(err, "watch port %u", port);
	if (lend(taken, sockets, port) < 0)
		return fcm_fail_errno(err, "lend port %u", port);
	return 0;
}
