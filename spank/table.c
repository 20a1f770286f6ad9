/*
 * The table of mounts that this process sees (/proc/self/mountinfo, see proc(5)). Users choose where they mount what they
 * serve, so a path may hold any bytes: fields are separated by single blanks and lines by newlines, nothing else
 * separates, and the kernel writes blanks, tabs, newlines and backslashes of a path as \040 and the like.
 */
#define _GNU_SOURCE
#include "ebb_spank.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int is_octal(char c)
{
	return c >= '0' && c <= '7';
}

/* Text of the kernel's as the bytes that it stands for, in its own place. */
void ebb_unescape(char *text)
{
	char *to = text;

	while (*text) {
		if (text[0] == '\\' && text[1] <= '3' && is_octal(text[1]) && is_octal(text[2]) && is_octal(text[3])) {
			*to++ = (char)((text[1] - '0') * 64 + (text[2] - '0') * 8 + (text[3] - '0'));
			text += 4;
		} else {
			*to++ = *text++;
		}
	}
	*to = '\0';
}

/* The same backwards: a word that no blank, tab or newline ends. 0, or -1 if it does not fit. */
int ebb_escape(const char *path, char *escaped, size_t size)
{
	size_t used = 0;

	for (; *path; path++) {
		if (used + 5 > size)
			return -1;
		if (strchr(" \t\n\\", *path))
			used += (size_t)snprintf(escaped + used, size - used, "\\%03o", (unsigned char)*path);
		else
			escaped[used++] = *path;
	}
	escaped[used] = '\0';
	return 0;
}

/* 0, and ebb_table_close is owed; -1 with errno. */
int ebb_table_open(ebb_table *table)
{
	*table = (ebb_table){.file = fopen("/proc/self/mountinfo", "re")};
	return table->file ? 0 : -1;
}

/* 1: the next mount, valid until the next call; 0: there is none; -1 with errno: not all could be read. */
int ebb_table_next(ebb_table *table, ebb_mounted *mounted)
{
	char *rest, *device = NULL, *path = NULL;
	int field;

	errno = 0;
	if (getline(&table->line, &table->room, table->file) < 0)
		return ferror(table->file) || errno == ENOMEM ? -1 : 0;
	rest = table->line;
	for (field = 0; field < 5; field++) {
		path = strsep(&rest, " ");
		if (field == 2)
			device = path;
	}
	if (!rest || sscanf(device, "%u:%u", &mounted->major, &mounted->minor) != 2) {
		errno = EBADMSG;
		return -1;
	}
	ebb_unescape(path);
	mounted->path = path;
	return 1;
}

void ebb_table_close(ebb_table *table)
{
	free(table->line);
	fclose(table->file);
}
