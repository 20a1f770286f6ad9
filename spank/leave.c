/*
 * On a datanode that computes, a job's new namespace has copies of every buffer's mount below the run directory. They
 * would show the job other buffers' file systems and keep them alive as long as it runs, and dnd could not take their
 * volumes. So all mounts there are dropped, in the job's namespace only. What the job has of its own is mounted elsewhere
 * by then, and the clients of an SBB, which alone need the sockets in `own`, live in the node's namespace.
 *
 * Below <datanode>/sbb/<number>/own everything is a user's: names are what they like, folders turn into symbolic links at
 * any moment, and a file system may be one that never answers. Hence:
 *   - nothing is looked up but by root's own names and, from the run directory on, without crossing a symbolic link or
 *     a mount (openat2(2)); only the last name is a mountpoint, and to drop it nobody asks what is mounted there;
 *   - shortest paths go first, so that the way to a mount is never covered by another one, and what lies in a mount goes
 *     along with it;
 *   - what is left in a user's place is no reason to refuse the job, for then that user could refuse everybody's.
 */
#define _GNU_SOURCE
#include "ebb_spank.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

/* How often the table is read again, for mounts come and go meanwhile. A user who mounts all the while ends nothing. */
#define ROUNDS 4
#define SHOWN 300 /* characters of a path in a message */

typedef struct {
	int folder; /* the run directory */
	char path[PATH_MAX]; /* of it, as the table has it */
	char **places; /* paths below it at which something is mounted, the shortest first */
	size_t count;
	char *text; /* for a message or a note */
	size_t size;
} leaving;

/* A folder by its path, which begins at `at`; resolve: RESOLVE_... of openat2(2). A descriptor, or -1 with errno. */
int ebb_open_folder(int at, const char *path, uint64_t resolve)
{
	struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, .resolve = resolve};

	return (int)syscall(SYS_openat2, at, path, &how, sizeof(how));
}

static int open_run(leaving *l, const char *run)
{
	char link[64];
	ssize_t length;

	l->folder = open(run, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (l->folder < 0)
		return -1;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", l->folder);
	length = readlink(link, l->path, sizeof(l->path) - 1);
	if (length <= 0)
		return -1;
	l->path[length] = '\0';
	return 0;
}

static void forget_places(leaving *l)
{
	while (l->count > 0)
		free(l->places[--l->count]);
	free(l->places);
	l->places = NULL;
}

static int add_place(leaving *l, const char *place)
{
	char **more = realloc(l->places, (l->count + 1) * sizeof(*more));

	if (!more)
		return -1;
	l->places = more;
	l->places[l->count] = strdup(place);
	if (!l->places[l->count])
		return -1;
	l->count++;
	return 0;
}

static int by_length(const void *a, const void *b)
{
	size_t one = strlen(*(char *const *)a), other = strlen(*(char *const *)b);

	return (one > other) - (one < other);
}

/* 0, or -1 with errno: then it is not known what there is. */
static int read_places(leaving *l)
{
	size_t length = strlen(l->path);
	ebb_mounted mounted;
	ebb_table table;
	int found, saved;

	forget_places(l);
	if (ebb_table_open(&table) != 0)
		return -1;
	while ((found = ebb_table_next(&table, &mounted)) > 0)
		if (strncmp(mounted.path, l->path, length) == 0 && mounted.path[length] == '/' &&
		    add_place(l, mounted.path + length + 1) != 0) {
			found = -1;
			break;
		}
	saved = errno;
	ebb_table_close(&table);
	errno = saved;
	if (l->count > 0)
		qsort(l->places, l->count, sizeof(*l->places), by_length);
	return found;
}

/* Drop what is mounted at a place. 0, or -1 with errno. */
static int drop(int run, const char *place)
{
	char above[PATH_MAX], target[64 + NAME_MAX];
	const char *name = strrchr(place, '/');
	int folder = run, result, saved;

	if (name) {
		if ((size_t)(name - place) >= sizeof(above)) {
			errno = ENAMETOOLONG;
			return -1;
		}
		memcpy(above, place, (size_t)(name - place));
		above[name - place] = '\0';
		folder = ebb_open_folder(run, above, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
		if (folder < 0)
			return -1;
	}
	snprintf(target, sizeof(target), "/proc/self/fd/%d/%s", folder, name ? name + 1 : place);
	result = umount2(target, MNT_DETACH | UMOUNT_NOFOLLOW);
	saved = errno;
	if (folder != run)
		close(folder);
	errno = saved;
	return result;
}

/* <datanode>/sbb/<number>/own, which belongs to a buffer's owner (dnd/sbb/server.py), or below it. */
static int is_users(const char *place)
{
	const char *sbb = strchr(place, '/'), *own;

	if (!sbb || strncmp(sbb, "/sbb/", 5) != 0)
		return 0;
	own = strchr(sbb + 5, '/');
	return own && strncmp(own, "/own", 4) == 0 && (own[4] == '\0' || own[4] == '/');
}

/* In the last round what is left matters: -1 with a message for a place of root's, a note for one of a user's. */
static int drop_all(leaving *l, int last)
{
	size_t i;

	for (i = 0; i < l->count; i++) {
		if (drop(l->folder, l->places[i]) == 0 || !last)
			continue;
		if (!is_users(l->places[i])) {
			snprintf(l->text, l->size, "another buffer's mount %s/%.*s cannot be kept out of the job's namespace: "
				 "%s; tell the administrator", l->path, SHOWN, l->places[i], strerror(errno));
			return -1;
		}
		snprintf(l->text, l->size, "the job's namespace keeps a mount that some user made in the place of their own "
			 "buffer, %s/%.*s: %s; the job runs, nothing need be done", l->path, SHOWN, l->places[i],
			 strerror(errno));
	}
	return 0;
}

/*
 * Drop all mounts below the run directory in this process's namespace. 0, and text is empty or has a note for the log;
 * -1, and text says what of root's could not be dropped.
 */
int ebb_leave_run_directory(const char *run, char *text, size_t size)
{
	leaving l = {.folder = -1, .text = text, .size = size};
	int round, result;

	text[0] = '\0';
	result = open_run(&l, run);
	for (round = 1; round <= ROUNDS && result == 0; round++) {
		result = read_places(&l);
		if (result == 0 && l.count == 0)
			break;
		if (result == 0)
			result = drop_all(&l, round == ROUNDS);
	}
	if (result != 0 && !text[0])
		snprintf(text, size, "the mounts below %s cannot be kept out of the job's namespace: %s; tell the "
			 "administrator", run, strerror(errno));
	forget_places(&l);
	if (l.folder >= 0)
		close(l.folder);
	return result;
}
