/*
 * What a step's I/O on the job's buffers was, for --ioinstrumentation=yes. Counters are taken at the step's begin and
 * end and subtracted. They are what the kernel has, and the summary says which:
 *   nfs4  the client's own counters of the mount (/proc/self/mountstats), of all of the node's users of that export
 *   bind  the counters of the buffer's volume (/sys/dev/block), of all users of the buffer on all nodes; data that
 *         is cached only is not in them, so the change of used space is given as well
 */
#define _GNU_SOURCE
#include "ebb_spank.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#define COUNT_SECONDS 5
#define LARGEST 32768
#define SECTOR 512 /* of /sys/dev/block/.../stat, whatever the device's own is */

typedef struct {
	char kind[16]; /* nfs4, device, none */
	int64_t read;
	int64_t written;
	int64_t used; /* bytes; -1: not known */
} counters;

typedef struct {
	const char *mounts; /* the text beside the pin */
	int pin;
} counting;

/* Whether a line of mountstats begins the counters of an NFS mount on path; the path in it is unescaped. */
static int begins_nfs(char *line, const char *path)
{
	static const char on[] = " mounted on ", with[] = " with fstype nfs";
	char *point = strstr(line, on), *end; /* no blank is in the device's name before it: the kernel escapes them */

	if (!point)
		return 0;
	point += sizeof(on) - 1;
	end = strchr(point, ' ');
	if (!end || strncmp(end, with, sizeof(with) - 1) != 0)
		return 0;
	*end = '\0';
	ebb_unescape(point);
	return strcmp(point, path) == 0;
}

/* proc(5), mountstats: `device A mounted on B with fstype nfs4 ...`, then `bytes:` and eight numbers. */
static void count_nfs(const char *path, counters *c)
{
	char *line = NULL;
	size_t room = 0;
	int here = 0;
	FILE *stats = fopen("/proc/self/mountstats", "re");

	while (stats && getline(&line, &room, stats) > 0) {
		int64_t n[4];

		if (strncmp(line, "device ", 7) == 0)
			here = begins_nfs(line, path);
		else if (here && sscanf(line, " bytes: %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64, &n[0], &n[1],
					&n[2], &n[3]) == 4) {
			/* read and write calls, then those past the cache */
			snprintf(c->kind, sizeof(c->kind), "nfs4");
			c->read = n[0] + n[2];
			c->written = n[1] + n[3];
		}
	}
	free(line);
	if (stats)
		fclose(stats);
}

/* The device of the file system mounted on path; the last line counts, it lies on top. 0 or -1. */
static int device_of(const char *path, unsigned *major_number, unsigned *minor_number)
{
	ebb_mounted mounted;
	ebb_table table;
	int found = -1;

	if (ebb_table_open(&table) != 0)
		return -1;
	while (ebb_table_next(&table, &mounted) > 0)
		if (strcmp(mounted.path, path) == 0) {
			*major_number = mounted.major;
			*minor_number = mounted.minor;
			found = 0;
		}
	ebb_table_close(&table);
	return found;
}

static void count_device(const char *path, counters *c)
{
	char stat_path[128], *text = NULL;
	unsigned major_number, minor_number;
	int64_t sectors_read, sectors_written;
	struct statfs space;
	struct stat about;
	int fd;

	if (device_of(path, &major_number, &minor_number) != 0)
		return;
	/* The path had no symbolic link when it was noted: one in it now could lead root anywhere. */
	fd = ebb_open_folder(AT_FDCWD, path, RESOLVE_NO_SYMLINKS);
	/* The user may have moved things since: then what is there is not asked. */
	if (fd >= 0 && fstat(fd, &about) == 0 && about.st_dev == makedev(major_number, minor_number) &&
	    fstatfs(fd, &space) == 0)
		c->used = (int64_t)(space.f_blocks - space.f_bfree) * space.f_bsize;
	if (fd >= 0)
		close(fd);
	snprintf(stat_path, sizeof(stat_path), "/sys/dev/block/%u:%u/stat", major_number, minor_number);
	if (ebb_file_read(stat_path, &text) > 0 &&
	    sscanf(text, "%*s %*s %" SCNd64 " %*s %*s %*s %" SCNd64, &sectors_read, &sectors_written) == 2) {
		snprintf(c->kind, sizeof(c->kind), "device");
		c->read = sectors_read * SECTOR;
		c->written = sectors_written * SECTOR;
	}
	free(text);
}

/* In a child: a line a mount, `name kind read written used`. */
static int count_all(int out, void *argument)
{
	counting *work = argument;
	char *text = strdup(work->mounts), *line, *rest = NULL;

	if (!text || setns(work->pin, CLONE_NEWNS) != 0)
		return -1;
	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		char *more = NULL, *name = strtok_r(line, "\t", &more), *kind = strtok_r(NULL, "\t", &more);
		char *path = strtok_r(NULL, "\t", &more);
		counters c = {"none", 0, 0, -1};

		if (!name || !kind || !path)
			continue;
		if (strcmp(kind, "sbb") == 0)
			continue; /* root may not look at it */
		ebb_unescape(path);
		if (strcmp(kind, "nfs4") == 0)
			count_nfs(path, &c);
		else
			count_device(path, &c);
		dprintf(out, "%s\t%s\t%" PRId64 "\t%" PRId64 "\t%" PRId64 "\n", name, c.kind, c.read, c.written,
			c.used);
	}
	free(text);
	return 0;
}

static int count(const ebb_settings *settings, uint32_t job, char *text, size_t size)
{
	char path[PATH_MAX], *mounts = NULL;
	counting work;
	int result = -1;

	ebb_pin_path(settings, job, ":mounts", path, sizeof(path));
	if (ebb_file_read(path, &mounts) < 0)
		return -1;
	ebb_pin_path(settings, job, "", path, sizeof(path));
	work = (counting){mounts, open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)};
	if (ebb_pin_look(work.pin) == EBB_PIN_NAMESPACE)
		result = ebb_child_run(count_all, &work, COUNT_SECONDS, text, size);
	if (work.pin >= 0)
		close(work.pin);
	free(mounts);
	return result;
}

static void step_path(const ebb_settings *settings, uint32_t job, uint32_t step, const char *what, char *path)
{
	char suffix[64];

	snprintf(suffix, sizeof(suffix), ":io.%u.%s", (unsigned)step, what);
	ebb_pin_path(settings, job, suffix, path, PATH_MAX);
}

/* Note the counters at a step's begin, as root. Without a buffer nothing is noted. */
void ebb_io_begin(const ebb_settings *settings, uint32_t job, uint32_t step)
{
	char path[PATH_MAX];
	char *text = malloc(LARGEST);

	step_path(settings, job, step, "begin", path);
	if (text && count(settings, job, text, LARGEST) == 0)
		ebb_file_write(path, text, strlen(text));
	free(text);
}

/* Whether that was the step's last task on this node. A file counts, for under psslurm each task ends elsewhere. */
int ebb_io_task_ended(const ebb_settings *settings, uint32_t job, uint32_t step, uint32_t local_tasks)
{
	char path[PATH_MAX];
	struct stat about = {.st_size = -1};
	int fd;

	step_path(settings, job, step, "begin", path);
	if (access(path, F_OK) != 0)
		return 0;
	step_path(settings, job, step, "ended", path);
	fd = ebb_lock(path, COUNT_SECONDS);
	if (fd < 0)
		return 0;
	if (lseek(fd, 0, SEEK_END) < 0 || write(fd, ".", 1) != 1 || fstat(fd, &about) != 0)
		about.st_size = -1;
	close(fd);
	return about.st_size == (off_t)local_tasks;
}

static const char *bytes(int64_t value, char *text, size_t size)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	double shown = value < 0 ? -(double)value : (double)value;
	int unit = 0;

	while (shown >= 1024 && unit < 5) {
		shown /= 1024;
		unit++;
	}
	snprintf(text, size, unit ? "%s%.1f %s" : "%s%.0f %s", value < 0 ? "-" : "", shown, units[unit]);
	return text;
}

static int read_line(char *line, char **name, counters *c)
{
	char *more = NULL, *kind;

	*name = strtok_r(line, "\t", &more);
	kind = strtok_r(NULL, "\t", &more);
	if (!*name || !kind || !more)
		return -1;
	snprintf(c->kind, sizeof(c->kind), "%s", kind);
	return sscanf(more, "%" SCNd64 "\t%" SCNd64 "\t%" SCNd64, &c->read, &c->written, &c->used) == 3 ? 0 : -1;
}

static size_t describe(const char *name, const counters *then, const counters *now, char *text, size_t size)
{
	char a[32], b[32], c[32];
	int n;

	bytes(now->read - then->read, a, sizeof(a));
	bytes(now->written - then->written, b, sizeof(b));
	if (strcmp(now->kind, "nfs4") == 0)
		n = snprintf(text, size, "I/O on buffer %s: read %s, wrote %s (by all of this node's users of it)\n",
			     name, a, b);
	else if (strcmp(now->kind, "device") == 0)
		n = snprintf(text, size, "I/O on buffer %s: its volume read %s, wrote %s, used space changed by %s (by "
			     "all users of it; cached data is not read or written yet)\n", name, a, b,
			     bytes(now->used - then->used, c, sizeof(c)));
	else
		n = snprintf(text, size, "I/O on buffer %s: used space changed by %s (its file system counts no reads "
			     "and writes)\n", name, bytes(now->used - then->used, c, sizeof(c)));
	return n < 0 ? 0 : (size_t)n >= size ? size - 1 : (size_t)n;
}

/* The summary of a step on this node, a line a buffer; 0, or -1 if there is none. Removes what the step noted. */
int ebb_io_summary(const ebb_settings *settings, uint32_t job, uint32_t step, char *text, size_t size)
{
	char path[PATH_MAX], *begin = NULL, *end = malloc(LARGEST);
	char *line, *then_line, *rest = NULL, *then_rest = NULL;
	size_t used = 0;

	step_path(settings, job, step, "ended", path);
	unlink(path);
	step_path(settings, job, step, "begin", path);
	text[0] = '\0';
	if (end && ebb_file_read(path, &begin) > 0 && count(settings, job, end, LARGEST) == 0) {
		line = strtok_r(end, "\n", &rest);
		then_line = strtok_r(begin, "\n", &then_rest);
		for (; line && then_line; line = strtok_r(NULL, "\n", &rest),
					  then_line = strtok_r(NULL, "\n", &then_rest)) {
			char *name, *then_name;
			counters now, then;

			if (read_line(line, &name, &now) == 0 && read_line(then_line, &then_name, &then) == 0 &&
			    strcmp(name, then_name) == 0)
				used += describe(name, &then, &now, text + used, size - used);
		}
	}
	unlink(path);
	free(begin);
	free(end);
	return text[0] ? 0 : -1;
}
