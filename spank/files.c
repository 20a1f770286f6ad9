/* Small files of root's, and the lock over them. */
#define _GNU_SOURCE
#include "ebb_spank.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LARGEST (1024 * 1024)

/* Write a file aside, then rename it: a reader sees the old text or the new. 0 or -1 with errno. */
int ebb_file_write(const char *path, const char *data, size_t size)
{
	char aside[EBB_PATH + 8];
	int fd, saved;

	snprintf(aside, sizeof(aside), "%s:new", path);
	fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -1;
	while (size > 0) {
		ssize_t n = write(fd, data, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break;
		data += n;
		size -= (size_t)n;
	}
	saved = errno;
	close(fd);
	if (size == 0 && rename(aside, path) == 0)
		return 0;
	if (size == 0)
		saved = errno;
	unlink(aside);
	errno = saved;
	return -1;
}

/* A whole file, malloc'ed and ended by a NUL that does not count; -1 with errno. */
ssize_t ebb_file_read(const char *path, char **data)
{
	size_t used = 0, room = 4096;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	*data = NULL;
	if (fd < 0)
		return -1;
	char *text = malloc(room + 1);
	while (text && used < LARGEST) {
		ssize_t n = read(fd, text + used, room - used);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			if (n < 0) {
				free(text);
				text = NULL;
			}
			break;
		}
		used += (size_t)n;
		if (used == room) {
			room *= 2;
			char *more = realloc(text, room + 1);
			if (!more)
				free(text);
			text = more;
		}
	}
	close(fd);
	if (!text)
		return -1;
	text[used] = '\0';
	*data = text;
	return (ssize_t)used;
}

/*
 * Take the lock `path` (flock), made if it is missing. The holder may remove the file, so what was locked is
 * compared with what the path names. Returns the descriptor; closing it unlocks. -1 after `seconds`, with errno.
 */
int ebb_lock(const char *path, int seconds)
{
	struct timespec pause = {0, 5 * 1000 * 1000};
	time_t deadline = time(NULL) + seconds;

	for (;;) {
		struct stat held, named;
		int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

		if (fd < 0)
			return -1;
		while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
			if (errno != EWOULDBLOCK || time(NULL) >= deadline) {
				int saved = errno;
				close(fd);
				errno = saved;
				return -1;
			}
			nanosleep(&pause, NULL);
		}
		if (fstat(fd, &held) == 0 && stat(path, &named) == 0 && held.st_ino == named.st_ino)
			return fd;
		close(fd);
	}
}
