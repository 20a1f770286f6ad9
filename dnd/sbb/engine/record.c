/*
 * The names of files that have bytes which exist nowhere but here: `dirty` beside the control socket, a line "+ path" or "- path"
 * each. A server without a store that was killed finds in it what was lost.
 */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int record = -1;
static uint64_t lines;
static char record_path[4096], shorter_path[4096];

static bool put_line(char sign, const char *path)
{
	char text[8192];
	int size = snprintf(text, sizeof text, "%c %s\n", sign, path);
	if (size >= (int)sizeof text)
		return true;
	for (char *c = text; c < text + size - 1; c++)
		if (*c == '\n')
			*c = '?';
	errno = ENOSPC; /* for one that is written in part */
	bool whole = write(record, text, (size_t)size) == size;
	if (!whole)
		say_seldom("the record of dirty files cannot be written: %s", strerror(errno));
	lines++;
	return whole;
}

static bool put(uint32_t target, const char *below, char sign)
{
	char path[8192];
	snprintf(path, sizeof path, "%s/%s", S.targets[target].path, below);
	return put_line(sign, path);
}

/*
 * Shorter again, now that much of it says what the rest takes back. Who is killed meanwhile leaves the old one, and so does a file
 * system that has no room for both.
 */
static void shorten(void)
{
	int old = record;
	bool whole = true;
	record = open(shorter_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (record < 0) {
		record = old;
		return;
	}
	lines = 0;
	for (uint32_t i = 0; i < S.lost_count; i++) /* the next server must know them too */
		whole = whole && put_line('+', S.lost[i]);
	for (struct file *other = S.dirty_first; other; other = other->after)
		if (other->recorded)
			whole = whole && put(other->target, other->path, '+');
	if (!S.dirty_files || !whole)
		lines = 0; /* it is tried again, not for each file */
	if (whole && rename(shorter_path, record_path)) {
		say_seldom("the record of dirty files cannot be renamed: %s", strerror(errno));
		whole = false;
	}
	if (!whole) {
		unlink(shorter_path);
		close(record);
		record = old;
		return;
	}
	close(old);
}

void record_dirty(struct file *file, bool dirty)
{
	if (record < 0 || file->recorded == dirty)
		return;
	file->recorded = dirty;
	put(file->target, file->path, dirty ? '+' : '-');
	if (!dirty && lines > (S.dirty_files ? 65536 : 256))
		shorten();
}

void record_renamed(struct file *file, const char *old)
{
	if (record < 0 || !file->recorded)
		return;
	put(file->target, file->path, '+'); /* first, so that there is one of them at every moment */
	put(file->target, old, '-');
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* What an earlier server had not drained. */
static void read_lost(FILE *file)
{
	char *line = NULL;
	size_t room = 0;
	ssize_t length;
	while ((length = getline(&line, &room, file)) > 2) {
		if (line[length - 1] == '\n')
			line[length - 1] = 0;
		uint32_t i = 0;
		while (i < S.lost_count && strcmp(S.lost[i], line + 2) != 0)
			i++;
		if (*line == '+' && i == S.lost_count) {
			S.lost = must_realloc(S.lost, (S.lost_count + 1) * sizeof *S.lost);
			S.lost[S.lost_count++] = must_copy(line + 2);
		} else if (*line == '-' && i < S.lost_count) {
			free(S.lost[i]);
			S.lost[i] = S.lost[--S.lost_count];
		}
	}
	free(line);
	qsort(S.lost, S.lost_count, sizeof *S.lost, by_name);
}

void record_start(void)
{
	const char *slash = strrchr(S.control, '/');
	int folder = slash ? (int)(slash - S.control + 1) : 0;
	snprintf(record_path, sizeof record_path, "%.*sdirty", folder, S.control);
	snprintf(shorter_path, sizeof shorter_path, "%.*sdirty.new", folder, S.control);
	FILE *before = fopen(record_path, "re");
	S.reborn = before != NULL;
	if (before && !has_store())
		read_lost(before);
	if (before)
		fclose(before);
	/* Names that were lost stay in it: the next server must know them too. */
	record = open(record_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (record < 0)
		die("%s: %s", record_path, strerror(errno));
}
