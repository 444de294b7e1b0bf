/*
 * What an update makes of a VM's traits: each member alone, and when a size waits for the next start.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "common/core/util.h"
#include "daemon/engine/update.h"

static struct vm_traits web(void)
{
	struct vm_traits t = {
		.name = "web", .vcpus = 1, .mem_mib = 512, .restart = RESTART_UNLESS_STOPPED, .labels = {0}};

	strv_add(&t.labels, "a=1");
	strv_add(&t.labels, "ab=2");
	return t;
}

static void expect_size(const struct vm_traits *t, uint32_t vcpus, uint32_t mem, struct vm_next next)
{
	assert_int_equal(t->vcpus, vcpus);
	assert_int_equal(t->mem_mib, mem);
	assert_int_equal(t->next.vcpus, next.vcpus);
	assert_int_equal(t->next.mem_mib, next.mem_mib);
}

static void apply(const struct update_request *u, bool down, struct vm_traits *t)
{
	struct fcm_error err;

	assert_int_equal(update_apply(u, down, t, &err), 0);
}

static void nothing_asked_changes_nothing(void **unused)
{
	struct vm_traits t = web();

	(void)unused;
	t.next = (struct vm_next){4, 1024};
	apply(&(struct update_request){.name = ""}, true, &t);
	assert_string_equal(t.name, "web");
	assert_int_equal(t.restart, RESTART_UNLESS_STOPPED);
	assert_int_equal(t.labels.n, 2);
	expect_size(&t, 1, 512, (struct vm_next){4, 1024});
	strv_done(&t.labels);
}

static void a_machine_keeps_its_size(void **unused)
{
	struct vm_traits t = web();

	(void)unused;
	apply(&(struct update_request){.vcpus = 2}, false, &t);
	expect_size(&t, 1, 512, (struct vm_next){2, 512});
	apply(&(struct update_request){.mem_mib = 1024}, false, &t);
	expect_size(&t, 1, 512, (struct vm_next){2, 1024});
	/* back to what it has: nothing waits any more */
	apply(&(struct update_request){.vcpus = 1, .mem_mib = 512}, false, &t);
	expect_size(&t, 1, 512, (struct vm_next){0, 0});
	strv_done(&t.labels);
}

static void without_a_machine_it_is_so_at_once(void **unused)
{
	struct vm_traits t = web();

	(void)unused;
	t.next.vcpus = 4; /* asked for while it ran */
	t.next.mem_mib = 512;
	apply(&(struct update_request){.mem_mib = 256}, true, &t);
	expect_size(&t, 4, 256, (struct vm_next){0, 0});
	strv_done(&t.labels);
}

static void the_next_start_takes_it(void **unused)
{
	struct vm_view v = {.spec = {.vcpus = 1, .mem_mib = 512}, .next = {2, 1024}};

	(void)unused;
	for (int i = 0; i < 2; i++) {
		update_take_next(&v);
		assert_int_equal(v.spec.vcpus, 2);
		assert_int_equal(v.spec.mem_mib, 1024);
		assert_int_equal(v.next.vcpus, 0);
	}
}

/* What was wanted, or was there, comes with the boot after. */
static void back_to_another_size(void **unused)
{
	const struct vm_spec small = {.vcpus = 1, .mem_mib = 256}, wanted = {.vcpus = 2, .mem_mib = 1024};
	struct vm_view v = {.spec = {.vcpus = 1, .mem_mib = 512}, .next = {2, 1024}};

	(void)unused;
	update_go_back(&v, &small);
	assert_int_equal(v.spec.mem_mib, 256);
	assert_int_equal(v.next.vcpus, 2);
	assert_int_equal(v.next.mem_mib, 1024);
	update_go_back(&v, &wanted);
	assert_int_equal(v.spec.mem_mib, 1024);
	assert_int_equal(v.next.vcpus, 0);
}

static void name_and_policy(void **unused)
{
	struct vm_traits t = web();

	(void)unused;
	apply(&(struct update_request){.name = "www", .restart = "no"}, false, &t);
	assert_string_equal(t.name, "www");
	assert_int_equal(t.restart, RESTART_NO);
	strv_done(&t.labels);
}

/* Away first, so that a label can be given anew; "a" is not "ab". */
static void labels(void **unused)
{
	struct vm_traits t = web();
	char a[] = "a", none[] = "none", ab[] = "ab=3", c[] = "c=";
	char *gone[] = {a, none}, *more[] = {ab, c};

	(void)unused;
	apply(&(struct update_request){.remove_labels = {.v = gone, .n = 2}, .labels = {.v = more, .n = 2}},
		false, &t);
	assert_int_equal(t.labels.n, 2);
	assert_string_equal(t.labels.v[0], "ab=3");
	assert_string_equal(t.labels.v[1], "c=");
	strv_done(&t.labels);
}

/* Each request is small enough, all of them aren't. */
static void labels_have_a_limit_together(void **unused)
{
	struct vm_traits t = {.labels = {0}};
	struct fcm_error err = {0};
	int rc = 0, n = 0;

	(void)unused;
	for (; rc == 0 && n <= VM_MAX_LABELS; n++) {
		auto_free char *entry = xprintf("k%d=v", n);
		rc = update_apply(&(struct update_request){.labels = {.v = &entry, .n = 1}}, false, &t, &err);
	}
	assert_int_equal(rc, -1);
	assert_int_equal(err.code, FCM_INVALID);
	assert_string_equal(err.field, "labels");
	assert_int_equal(n, VM_MAX_LABELS + 1);
	strv_done(&t.labels);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_asked_changes_nothing),
		cmocka_unit_test(a_machine_keeps_its_size),
		cmocka_unit_test(without_a_machine_it_is_so_at_once),
		cmocka_unit_test(the_next_start_takes_it),
		cmocka_unit_test(back_to_another_size),
		cmocka_unit_test(name_and_policy),
		cmocka_unit_test(labels),
		cmocka_unit_test(labels_have_a_limit_together),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
