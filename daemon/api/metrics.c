/*
 * The same for Prometheus, in its text exposition format, version 0.0.4: a family a measurement, a line in it a VM that runs.
 */
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "daemon/api/api.h"
#include "daemon/engine/stats.h"

struct family {
	const char *name, *type, *help;
	size_t offset; /* of the int64_t in struct vm_stats */
	int64_t scale; /* what is there, divided by this, is the value */
};

#define FAMILY(name_, type_, member, scale_, help_)                                                          \
	{                                                                                                    \
		"fcm_vm_" name_, type_, help_, offsetof(struct vm_stats, member), scale_                     \
	}

static const struct family families[] = {
	FAMILY("cpu_seconds_total", "counter", cpu_us, 1000000, "CPU time used by the VMM."),
	FAMILY("uptime_seconds", "gauge", up_ms, 1000, "Time since the VMM was started."),
	FAMILY("threads", "gauge", threads, 1, "Threads of the VMM."),
	FAMILY("resident_memory_bytes", "gauge", rss, 1, "Memory of the host that the VMM occupies (RSS)."),
	FAMILY("proportional_memory_bytes", "gauge", pss, 1,
		"The same with its share of what is shared (PSS)."),
	FAMILY("disk_read_bytes_total", "counter", disk_read, 1, "Bytes fetched from the host's disks."),
	FAMILY("disk_written_bytes_total", "counter", disk_written, 1,
		"Bytes for the host's disks to write."),
	FAMILY("network_receive_bytes_total", "counter", net_received, 1, "Bytes that the guest received."),
	FAMILY("network_transmit_bytes_total", "counter", net_sent, 1, "Bytes that the guest sent."),
	FAMILY("guest_memory_bytes", "gauge", guest.memory, 1, "Memory of the guest, as it says."),
	FAMILY("guest_memory_available_bytes", "gauge", guest.available, 1,
		"Memory that the guest has left, as it says."),
	FAMILY("guest_load1", "gauge", guest.load, 100, "Load of one minute, as the guest says."),
	FAMILY("guest_filesystem_size_bytes", "gauge", guest.disk, 1,
		"Size of the guest's root file system, as it says."),
	FAMILY("guest_filesystem_used_bytes", "gauge", guest.disk_used, 1,
		"What is used of the guest's root file system, as it says."),
};

static void add_head(struct buf *b, const char *name, const char *type, const char *help)
{
	buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* A label's value: \, " and the end of a line are escaped. */
static void add_label(struct buf *b, const char *label, const char *value)
{
	buf_printf(b, "%s=\"", label);
	for (; *value; value++) {
		if (*value == '\\' || *value == '"')
			buf_str(b, "\\");
		if (*value == '\n')
			buf_str(b, "\\n");
		else
			buf_add(b, value, 1);
	}
	buf_str(b, "\"");
}

/* Exact: through no floating point number. `scale` is a power of ten. */
static void add_value(struct buf *b, int64_t value, int64_t scale)
{
	buf_printf(b, " %" PRId64, value / scale);
	if (scale > 1)
		buf_str(b, ".");
	for (int64_t rest = value % scale, unit = scale / 10; unit > 0; rest %= unit, unit /= 10)
		buf_printf(b, "%" PRId64, rest / unit);
	buf_str(b, "\n");
}

static void add_family(struct buf *b, const struct family *f, const struct vm_stats *stats, size_t n)
{
	add_head(b, f->name, f->type, f->help);
	for (size_t i = 0; i < n; i++) {
		int64_t value;
		memcpy(&value, (const char *)&stats[i] + f->offset, sizeof value);
		if (value < 0)
			continue;
		buf_printf(b, "%s{", f->name);
		add_label(b, "vm", stats[i].name);
		buf_str(b, ",");
		add_label(b, "id", stats[i].id.s);
		buf_str(b, "}");
		add_value(b, value, f->scale);
	}
}

static void add_states(struct buf *b, const struct vm_stats *stats, size_t n)
{
	int64_t count[VM_STATES] = {0};

	for (size_t i = 0; i < n; i++)
		count[stats[i].state]++;
	add_head(b, "fcm_vms", "gauge", "VMs by state.");
	for (size_t i = 0; i < VM_STATES; i++) {
		buf_str(b, "fcm_vms{");
		add_label(b, "state", vm_state_names[i]);
		buf_str(b, "}");
		add_value(b, count[i], 1);
	}
}

int api_metrics(struct request *rq, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf b = {0};
	size_t n;
	auto_free struct vm_stats *stats = engine_stats_all(http_only(rq), &n);

	(void)err;
	add_head(&b, "fcm_build_info", "gauge", "The version of the daemon.");
	buf_str(&b, "fcm_build_info{");
	add_label(&b, "version", FCM_VERSION);
	buf_str(&b, "} 1\n");
	add_states(&b, stats, n);
	for (size_t i = 0; i < ARRAY_SIZE(families); i++)
		add_family(&b, &families[i], stats, n);
	return http_reply_text(rq, 200, "text/plain; version=0.0.4; charset=utf-8", b.p, b.n);
}
