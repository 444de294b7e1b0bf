/*
 * The pure parts of the client: options bound to fields, which daemon and which token may go there, what a guest wrote,
 * known_hosts, tokens in debug output.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/api.h"
#include "client/options.h"
#include "client/sshkey.h"
#include "client/term.h"
#include "client/where.h"
#include "common/model.h"

struct flags {
	bool json;
	char *output;
};

static const struct field flag_fields[] = {
	F(struct flags, json, FIELD_BOOL),
	F(struct flags, output, FIELD_STR, .max = 64),
	FIELD_END,
};

static const struct option_row flag_rows[] = {
	{"json", 0, NULL, NULL, "JSON"},
	{"output", 'o', "COLS", NULL, "columns"},
	{0},
};

static const struct option_row vm_rows[] = {
	{"cpus", 0, "N", NULL, "CPUs"},
	{"cpu", 'c', NULL, NULL, NULL},
	{"mem", 'm', "SIZE", "memory", "memory"},
	{"env", 'e', "K=V", NULL, "environment"},
	{"dry-run", 0, NULL, "dry_run", "only say"},
	{0},
};

struct parsed {
	struct vm_create vm;
	struct flags flags;
	struct strv given;
	int first;
	struct fcm_error err;
};

enum { MAX_WORDS = 16 };

/* Parse "fcm <line>", split at spaces. */
static int parse(struct parsed *p, const char *line, bool first_ends)
{
	struct option_set sets[OPTION_SETS] = {
		{vm_rows, vm_create_fields, &p->vm, &p->given},
		{flag_rows, flag_fields, &p->flags, NULL},
	};
	char *words[MAX_WORDS] = {(char *)"fcm"}, *save = NULL, *copy = strdup(line);
	int n = 1;

	for (char *w = strtok_r(copy, " ", &save); w && n < MAX_WORDS - 1; w = strtok_r(NULL, " ", &save))
		words[n++] = w;
	int r = options_parse(sets, n, words, first_ends, &p->first, &p->err);
	free(copy);
	return r;
}

static void parsed_done(struct parsed *p)
{
	field_done(vm_create_fields, &p->vm);
	field_done(flag_fields, &p->flags);
	strv_done(&p->given);
}

static void options_bind(void **state)
{
	struct parsed p = {.first = 0};

	(void)state;
	assert_int_equal(
		parse(&p, "--cpu 2 web -m 1.5g -e A=1 --json -e B=2 -o name,ip --dry-run", false), 0);
	assert_int_equal(p.vm.spec.vcpus, 2);
	assert_int_equal(p.vm.spec.mem_mib, 1536);
	assert_int_equal(p.vm.spec.env.n, 2);
	assert_true(p.vm.dry_run && p.flags.json);
	assert_string_equal(p.flags.output, "name,ip");
	assert_int_equal(p.first, 13); /* web was moved to the end */
	assert_int_equal(p.given.n, 4);
	assert_true(strv_has(&p.given, "cpus") && strv_has(&p.given, "memory") && strv_has(&p.given, "env"));
	parsed_done(&p);
}

static void options_end_at_the_first_word(void **state)
{
	struct parsed p = {.first = 0};

	(void)state;
	assert_int_equal(parse(&p, "--json web ls --nonsense", true), 0);
	assert_int_equal(p.first, 2);
	parsed_done(&p);
}

static void options_errors(void **state)
{
	static const struct {
		const char *line, *msg;
	} cases[] = {
		{"--cpus 99", "--cpus: 99 is outside 1..32"},
		{"--cpu 0", "--cpu: 0 is outside 1..32"},
		{"--mem 1", "--mem: 1 is outside 64..1048576 MiB"},
		{"--cpus", "option '--cpus' needs a value"},
		{"-m", "option '-m' needs a value"},
		{"--wheels 4", "unknown option '--wheels'"},
		{"-x", "unknown option '-x'"},
		{"--json=1", "option '--json=1' takes no value"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct parsed p = {.first = 0};
		assert_int_equal(parse(&p, cases[i].line, false), -1);
		assert_string_equal(p.err.msg, cases[i].msg);
		assert_int_equal(fcm_code_info(p.err.code)->exit_status, 2);
		parsed_done(&p);
	}
}

static void where_decides(void **state)
{
	static const struct {
		const char *text, *url, *socket;
		bool loopback, secure;
	} cases[] = {
		{"http://127.0.0.1:7777", "http://127.0.0.1:7777", "", true, true},
		{"http://127.9.9.9/", "http://127.9.9.9", "", true, true},
		{"http://[::1]:80//", "http://[::1]:80", "", true, true},
		{"http://localhost", "http://localhost", "", true, true},
		{"http://192.0.2.1:7777", "http://192.0.2.1:7777", "", false, false},
		{"http://127.0.0.1.example.com", "http://127.0.0.1.example.com", "", false, false},
		{"https://vm.example.com", "https://vm.example.com", "", false, true},
		{"unix:///run/fcm/x.sock", "http://localhost", "/run/fcm/x.sock", true, true},
	};
	struct where w;
	struct fcm_error err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(where_parse(cases[i].text, &w, &err), 0);
		assert_string_equal(w.url, cases[i].url);
		assert_string_equal(w.socket, cases[i].socket);
		assert_int_equal(w.loopback, cases[i].loopback);
		assert_int_equal(w.secure, cases[i].secure);
	}
}

static void where_refuses(void **state)
{
	static const char *const cases[] = {"", "127.0.0.1:7777", "ftp://x", "http://", "http:///x",
		"http://a b", "http://user@host", "http://user:pw@127.0.0.1", "http://127.0.0.1:0",
		"http://127.0.0.1:99999", "http://h/path", "http://h?x", "http://[::1", "https://h\r\nX: y",
		"unix://relative", "unix:/one"};
	struct where w;
	struct fcm_error err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(where_parse(cases[i], &w, &err), -1);
		assert_int_equal(err.code, FCM_USAGE);
	}
}

/* The filter's answer must not depend on where the stream is cut. */
static void check_text(const char *in, const char *expected)
{
	size_t n = strlen(in);

	for (size_t cut = 0; cut <= n; cut++) {
		struct guest_text t = {.nheld = 0};
		struct buf out = {0};
		guest_text_add(&t, in, cut, &out);
		guest_text_add(&t, in + cut, n - cut, &out);
		assert_string_equal(out.p ? out.p : "", expected);
		buf_done(&out);
	}
}

static void guest_text(void **state)
{
	(void)state;
	check_text("plain\r\n", "plain\n");
	check_text("\033[1;31mred\033[0m", "red");
	check_text("\033]0;title\007x", "x");
	check_text("\033]0;title\033\\x", "x");
	check_text("\033]never ends\nnext line", "next line");
	check_text("\033(Bx\033cy", "xy");
	check_text("caf\303\251 \342\202\254 \360\237\230\200", "caf\303\251 \342\202\254 \360\237\230\200");
	check_text("\302\233x", "?x");
	check_text("a\007b\177", "a?b?");
	check_text("\303(", "?(");
	check_text("\342\202x", "??x");
	check_text("\200\200", "??");
	check_text("\303\033[1mx", "?x");
}

static void known_hosts(void **state)
{
	auto_free char *first = sshkey_replace_line(NULL, "fcm-aaaaaaaa", "web.fcm", "ssh-ed25519 K1");
	auto_free char *second = sshkey_replace_line(first, "fcm-bbbbbbbb", "db.fcm", "ssh-ed25519 K2");
	/* web was destroyed and made again: its old line goes, db's stays */
	auto_free char *third = sshkey_replace_line(second, "fcm-cccccccc", "web.fcm", "ssh-ed25519 K3");
	/* db was renamed */
	auto_free char *fourth = sshkey_replace_line(third, "fcm-bbbbbbbb", "sql.fcm", "ssh-ed25519 K2");
	auto_free char *again = sshkey_replace_line(fourth, "fcm-bbbbbbbb", "sql.fcm", "ssh-ed25519 K2");

	(void)state;
	assert_string_equal(first, "fcm-aaaaaaaa,web.fcm ssh-ed25519 K1\n");
	assert_string_equal(
		third, "fcm-bbbbbbbb,db.fcm ssh-ed25519 K2\nfcm-cccccccc,web.fcm ssh-ed25519 K3\n");
	assert_string_equal(
		fourth, "fcm-cccccccc,web.fcm ssh-ed25519 K3\nfcm-bbbbbbbb,sql.fcm ssh-ed25519 K2\n");
	assert_string_equal(again, fourth);
}

static void redact(void **state)
{
#define SECRET "AAAAAAAAAABBBBBBBBBBCCCCCCCCCCDDDDDDDDDD_-x"
	auto_free char *one =
		api_redact("{\"token\":\"fcm_abcd1234_" SECRET "\",\"x\":\"fcm_abcd1234_" SECRET "\"}");
	auto_free char *none = api_redact("fcm_ fcm_x fcm_abcd1234_short tap fcm_");

	(void)state;
	assert_string_equal(one, "{\"token\":\"fcm_abcd1234_***\",\"x\":\"fcm_abcd1234_***\"}");
	assert_string_equal(none, "fcm_ fcm_x fcm_abcd1234_short tap fcm_");
}

static void escape(void **state)
{
	auto_free char *s = httpc_escape("a/../b%00?x=1 \n\303\251~.-_"), *empty = httpc_escape("");

	(void)state;
	assert_string_equal(s, "a%2F..%2Fb%2500%3Fx%3D1%20%0A%C3%A9~.-_");
	assert_string_equal(empty, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_bind),
		cmocka_unit_test(options_end_at_the_first_word),
		cmocka_unit_test(options_errors),
		cmocka_unit_test(where_decides),
		cmocka_unit_test(where_refuses),
		cmocka_unit_test(guest_text),
		cmocka_unit_test(known_hosts),
		cmocka_unit_test(redact),
		cmocka_unit_test(escape),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
