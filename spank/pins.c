/*
 * The folder of pins, <run>/ns: a tmpfs of its own with private propagation, made exactly once. (A namespace's file
 * cannot be bound below a shared mount, and a second mount over the folder would hide the pins.)
 *
 *   <job>.<node>          the pin: a mount namespace bound here, or a text that says why there is none
 *   <job>.<node>:plan     what was mounted (plan.c); its time of change is when a step last used the pin
 *   <job>.<node>:mounts   name, kind and mountpoint (escaped as in mountinfo) of each mount, for the I/O summary
 *   <job>.<node>:lock     held while the namespace is made
 *   <job>.<node>:io.*     counters at the begin of a step with --ioinstrumentation
 */
#define _GNU_SOURCE
#include "ebb_spank.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define NAMESPACE_MAGIC 0x6e736673 /* NSFS_MAGIC of linux/magic.h */

/*
 * slurmd puts its node's name into the environment that slurmstepd inherits, epilogs too (seen on 22.05); psslurm does
 * not promise it. Several slurmd of one host have different names; without a name they share the host's.
 */
static void node_name(char *name, size_t size)
{
	const char *known = getenv("SLURMD_NODENAME");

	if (known && *known && !strpbrk(known, "/:") && strlen(known) < size) {
		snprintf(name, size, "%s", known);
		return;
	}
	if (gethostname(name, size - 1) != 0)
		snprintf(name, size, "localhost");
	name[size - 1] = '\0';
	name[strcspn(name, "./:")] = '\0';
}

/* The path of a job's pin on this node, or of a file beside it: suffix is "" or such as ":plan". */
void ebb_pin_path(const ebb_settings *settings, uint32_t job, const char *suffix, char *path, size_t size)
{
	char node[128];

	node_name(node, sizeof(node));
	snprintf(path, size, "%s/ns/%u.%s%s", settings->run, (unsigned)job, node, suffix);
}

/* What an opened pin is; fd < 0: absent. */
enum ebb_pin_state ebb_pin_look(int fd)
{
	struct statfs about;

	if (fd < 0)
		return EBB_PIN_ABSENT;
	return fstatfs(fd, &about) == 0 && about.f_type == NAMESPACE_MAGIC ? EBB_PIN_NAMESPACE : EBB_PIN_TEXT;
}

static int fail(char *text, size_t size, const char *what, const char *path)
{
	snprintf(text, size, "%s %s: %s; tell the administrator", what, path, strerror(errno));
	return -1;
}

/* Make the folder of pins if it is not there. Called by slurmd's init and before a pin is made. */
int ebb_pins_prepare(const ebb_settings *settings, char *text, size_t size)
{
	char folder[EBB_PATH + 8], guard[EBB_PATH + 16];
	struct stat inner, outer;
	int lock, result = 0;

	snprintf(folder, sizeof(folder), "%s/ns", settings->run);
	snprintf(guard, sizeof(guard), "%s/ns.lock", settings->run);
	if (mkdir(settings->run, 0755) != 0 && errno != EEXIST)
		return fail(text, size, "making", settings->run);
	lock = ebb_lock(guard, EBB_MOUNT_SECONDS);
	if (lock < 0)
		return fail(text, size, "locking", guard);
	if (mkdir(folder, 0700) != 0 && errno != EEXIST)
		result = fail(text, size, "making", folder);
	else if (stat(settings->run, &outer) != 0 || stat(folder, &inner) != 0)
		result = fail(text, size, "looking at", folder);
	else if (inner.st_dev == outer.st_dev &&
		 mount("ebb", folder, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700,size=64m") != 0)
		result = fail(text, size, "mounting", folder);
	else if (mount(NULL, folder, NULL, MS_PRIVATE, NULL) != 0)
		result = fail(text, size, "making private", folder);
	close(lock);
	return result;
}

static void remove_all(const char *folder, const char *pin)
{
	char path[PATH_MAX];
	size_t length = strlen(pin);
	struct dirent *entry;
	DIR *names;

	snprintf(path, sizeof(path), "%s/%s", folder, pin);
	while (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
		;
	unlink(path);
	names = opendir(folder);
	if (!names)
		return;
	while ((entry = readdir(names)) != NULL) {
		if (strncmp(entry->d_name, pin, length) != 0 || entry->d_name[length] != ':')
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		unlink(path);
	}
	closedir(names);
}

/* Let go of a job's namespace: the kernel takes it down with the last process in it. Again is harmless. */
void ebb_pin_remove(const ebb_settings *settings, uint32_t job)
{
	char folder[EBB_PATH + 8], path[PATH_MAX], lock_path[PATH_MAX];
	int lock;

	ebb_pin_path(settings, job, "", path, sizeof(path));
	if (access(path, F_OK) != 0)
		return;
	ebb_pin_path(settings, job, ":lock", lock_path, sizeof(lock_path));
	lock = ebb_lock(lock_path, EBB_MOUNT_SECONDS); /* a step that still mounts; if it hangs, it loses */
	snprintf(folder, sizeof(folder), "%s/ns", settings->run);
	remove_all(folder, strrchr(path, '/') + 1);
	if (lock >= 0)
		close(lock);
}

/* Whether a process is in the mount namespace with that inode. Slow: looks at every process. */
static int inhabited(ino_t space)
{
	struct dirent *entry;
	int found = 0;
	DIR *processes = opendir("/proc");

	if (!processes)
		return 1;
	while (!found && (entry = readdir(processes)) != NULL) {
		char path[PATH_MAX];
		struct stat about;

		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		snprintf(path, sizeof(path), "/proc/%s/ns/mnt", entry->d_name);
		found = stat(path, &about) == 0 && about.st_ino == space;
	}
	closedir(processes);
	return found;
}

static int is_stale(const ebb_settings *settings, const char *folder, const char *pin)
{
	char path[PATH_MAX];
	struct stat used, space;
	int fd, namespace;

	snprintf(path, sizeof(path), "%s/%s", folder, pin);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &space) != 0) {
		if (fd >= 0)
			close(fd);
		return 0;
	}
	namespace = ebb_pin_look(fd) == EBB_PIN_NAMESPACE;
	close(fd);
	used = space;
	if (namespace) {
		snprintf(path, sizeof(path), "%s/%s:plan", folder, pin);
		if (stat(path, &used) != 0)
			used.st_mtime = 0;
	}
	if (used.st_mtime + settings->stale_seconds > time(NULL))
		return 0;
	return !namespace || !inhabited(space.st_ino);
}

/*
 * Remove pins that nothing uses and whose epilog never came: of jobs before a crash, or under psslurm, which may call
 * no epilog hook. Called by slurmd's init and when another job's pin is made. Losing a pin loses nothing: the next step
 * of that job makes it anew.
 */
void ebb_pins_sweep(const ebb_settings *settings)
{
	char folder[EBB_PATH + 8];
	struct dirent *entry;
	DIR *names;

	snprintf(folder, sizeof(folder), "%s/ns", settings->run);
	names = opendir(folder);
	if (!names)
		return;
	while ((entry = readdir(names)) != NULL) {
		char lock_path[PATH_MAX];
		int lock;

		if (!isdigit((unsigned char)entry->d_name[0]) || strchr(entry->d_name, ':') ||
		    !is_stale(settings, folder, entry->d_name))
			continue;
		snprintf(lock_path, sizeof(lock_path), "%s/%s:lock", folder, entry->d_name);
		lock = ebb_lock(lock_path, 0);
		if (lock < 0)
			continue;
		if (is_stale(settings, folder, entry->d_name))
			remove_all(folder, entry->d_name);
		close(lock);
	}
	closedir(names);
}
