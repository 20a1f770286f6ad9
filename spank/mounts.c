/*
 * Makes a job's mounts. Runs in a child of its own, in a mount namespace of the job's, as root.
 *
 * The mountpoint is the user's: it is made, opened and followed with the user's rights, then judged and mounted upon by
 * its descriptor, so that nothing can be put in its place between the look and the mount. A mount is made on a place
 * of root's first (with its flags), then moved: every kernel can, and no path of the user's is ever resolved by root.
 */
#define _GNU_SOURCE
#include "ebb_spank.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define SAFE (MS_NOSUID | MS_NODEV)

/* No mountpoint lies here, whatever MountPrefixes says: a setuid program would read what the user put there. */
static const char *const SYSTEM[] = {"/etc", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/boot",
				     "/dev", "/proc", "/sys", "/run", "/root", "/var/lib", "/var/run", "/var/spool",
				     "/var/cache", "/var/log", "/var/mail", "/var/lock", "/opt", NULL};

static int below(const char *path, const char *folder)
{
	size_t length = strlen(folder);

	while (length > 1 && folder[length - 1] == '/')
		length--;
	return strncmp(path, folder, length) == 0 && path[length] == '/' && path[length + 1];
}

static int refuse(char *text, size_t size, const ebb_mount *wanted, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

static int refuse(char *text, size_t size, const ebb_mount *wanted, const char *format, ...)
{
	int n = snprintf(text, size, "buffer %s cannot be mounted on %s: ", wanted->name, wanted->path);
	va_list arguments;

	if (n < 0 || (size_t)n >= size)
		return -1;
	va_start(arguments, format);
	vsnprintf(text + n, size - (size_t)n, format, arguments);
	va_end(arguments);
	return -1;
}

static int is_target(const ebb_mount *wanted)
{
	return strcmp(wanted->kind, "sbb") == 0;
}

/* The directories above `path` that are missing. */
static void make_above(const char *path)
{
	char part[PATH_MAX];
	const char *end = path;

	while ((end = strchr(end + 1, '/')) != NULL && (size_t)(end - path) < sizeof(part)) {
		memcpy(part, path, (size_t)(end - path));
		part[end - path] = '\0';
		if (mkdir(part, 0755) != 0 && errno != EEXIST && errno != EROFS && errno != EACCES)
			return;
	}
}

/*
 * With the user's rights: the directory, made if only it is missing; of an SBB's target, which need not exist yet,
 * all above it too. A descriptor, or -1 with errno.
 */
static int open_as_user(const ebb_plan *plan, const ebb_mount *wanted)
{
	const char *path = wanted->path;
	ebb_user before;
	int fd, saved;

	if (ebb_become(&plan->user, &before) != 0)
		return -1;
	fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT && is_target(wanted)) {
		make_above(path);
		errno = ENOENT;
	}
	if (fd < 0 && errno == ENOENT && (mkdir(path, 0755) == 0 || errno == EEXIST))
		fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	saved = errno;
	ebb_return(&before);
	errno = saved;
	return fd;
}

/* Whether the user could put things there anyway: then a mount over it lets nobody be deceived who was not before. */
static int writable(const ebb_plan *plan, const char *link)
{
	ebb_user before;
	int result;

	if (ebb_become(&plan->user, &before) != 0)
		return 0;
	result = faccessat(AT_FDCWD, link, W_OK | X_OK, AT_EACCESS) == 0;
	ebb_return(&before);
	return result;
}

/* Judge what was opened. real: where it lies, symbolic links followed. 0 or -1 with a message. */
static int judge(const ebb_plan *plan, const ebb_mount *wanted, int fd, char *real, size_t real_size, char *text,
		 size_t size)
{
	char link[64];
	struct stat about;
	ssize_t length;
	int i, allowed = 0;

	if (fstat(fd, &about) != 0)
		return refuse(text, size, wanted, "%s", strerror(errno));
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, real, real_size - 1);
	if (length <= 0 || (size_t)length >= real_size - 1 || about.st_nlink == 0)
		return refuse(text, size, wanted, "the directory went away or its path is too long; try again");
	real[length] = '\0';
	for (i = 0; SYSTEM[i]; i++)
		if (strcmp(real, SYSTEM[i]) == 0 || below(real, SYSTEM[i]))
			return refuse(text, size, wanted, "it leads to %s, a system directory; give Path= a directory "
				      "elsewhere", real);
	for (i = 0; i < plan->prefix_count; i++)
		allowed |= below(real, plan->prefixes[i]);
	if (!allowed)
		return refuse(text, size, wanted, "it leads to %s, which is not below a directory where this site "
			      "allows mountpoints (MountPrefixes in ebb.conf)", real);
	if (about.st_uid != plan->user.uid && !(is_target(wanted) && writable(plan, link)))
		return refuse(text, size, wanted, "%s belongs to uid %u, not to you (uid %u); give Path= a directory "
			      "of your own", real, (unsigned)about.st_uid, (unsigned)plan->user.uid);
	return 0;
}

/* Mount on root's own place. 0, or -1 with a message. */
static int mount_aside(const ebb_mount *wanted, const char *stage, char *text, size_t size)
{
	if (strcmp(wanted->kind, "bind") == 0) {
		/* A bind mount takes no flags of its own before it is mounted again. */
		if (mount(wanted->source, stage, NULL, MS_BIND, NULL) != 0 ||
		    mount(NULL, stage, NULL, MS_BIND | MS_REMOUNT | SAFE, NULL) != 0)
			return refuse(text, size, wanted, "its data at %s of this node: %s; try again, or tell the "
				      "administrator", wanted->source, strerror(errno));
		return 0;
	}
	/* mount(2), not mount.nfs4: that program would resolve the path again, and asks for nothing we do not know. */
	if (mount(wanted->source, stage, wanted->kind, SAFE, wanted->options) != 0)
		return refuse(text, size, wanted, "NFS from %s (%s): %s; try again, or tell the administrator",
			      wanted->source, wanted->options, strerror(errno));
	return 0;
}

static int mount_one(const ebb_plan *plan, const ebb_mount *wanted, const ebb_settings *settings, int home,
		     const char *stage, char *real, size_t real_size, char *text, size_t size)
{
	char target[64];
	int result = -1, served = -1, fd = open_as_user(plan, wanted);

	if (fd < 0)
		return refuse(text, size, wanted, "with your rights: %s; give Path= a directory that you own or may "
			      "make", strerror(errno));
	snprintf(target, sizeof(target), "/proc/self/fd/%d", fd);
	if (judge(plan, wanted, fd, real, real_size, text, size) == 0 &&
	    (is_target(wanted)
		     ? (served = ebb_sbb_mount(plan, wanted, settings, home, fd, stage, text, size)) >= 0
		     : mount_aside(wanted, stage, text, size) == 0)) {
		result = mount(stage, target, NULL, MS_MOVE, NULL);
		if (result != 0) {
			refuse(text, size, wanted, "moving the mount there: %s", strerror(errno));
			umount2(stage, MNT_DETACH);
		}
	}
	close(fd);
	if (served >= 0 && result == 0)
		return ebb_sbb_check(plan, wanted, served, real, text, size);
	if (served >= 0)
		close(served);
	return result;
}

/*
 * A line of the report, in which tabs separate and newlines end: the path may have both. A line that does not fit is left
 * out, for a part of a path is another path. How long the report is then.
 */
static size_t note_mount(const ebb_mount *wanted, const char *real, char *report, size_t used, size_t size)
{
	char escaped[4 * PATH_MAX];
	int n;

	if (ebb_escape(real, escaped, sizeof(escaped)) != 0)
		return used;
	n = snprintf(report + used, size - used, "%s\t%s\t%s\n", wanted->name, wanted->kind, escaped);
	if (n > 0 && (size_t)n < size - used)
		return used + (size_t)n;
	report[used] = '\0';
	return used;
}

/* All mounts of a plan, in its order (outer before inner). 0, or -1 with the first that failed in text. */
int ebb_mounts_make(const ebb_plan *plan, const ebb_settings *settings, int home, char *report, size_t report_size,
		    char *text, size_t size)
{
	char stage[EBB_PATH + 16], real[PATH_MAX];
	size_t used = 0;
	int i;

	snprintf(stage, sizeof(stage), "%s/ns.stage", settings->run);
	if (mkdir(stage, 0700) != 0 && errno != EEXIST) {
		snprintf(text, size, "%s cannot be made: %s", stage, strerror(errno));
		return -1;
	}
	report[0] = '\0';
	for (i = 0; i < plan->mount_count; i++) {
		const ebb_mount *wanted = &plan->mounts[i];

		if (mount_one(plan, wanted, settings, home, stage, real, sizeof(real), text, size) != 0)
			return -1;
		used = note_mount(wanted, real, report, used, report_size);
	}
	return 0;
}
