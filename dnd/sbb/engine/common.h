/* Small things that server and client share: log lines, configuration text, time, checksums. */
#ifndef SBB_COMMON_H
#define SBB_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define MAX_TARGETS 64
#define MAX_SERVERS 64
#define KEY_SIZE 32

/* One line on stderr, with time and the program's name. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/*
 * say() for what others can cause as often as they like, for nothing cuts the log: of each place that calls it at most a line a
 * second, and in the long run one a minute. The next line that is written says how many were not.
 */
#define say_seldom(...)                                  \
	do {                                             \
		static struct seldom so_far;             \
		say_if_due(&so_far, __VA_ARGS__);        \
	} while (0)
struct seldom {
	int64_t next;  /* monotonic: no line before */
	int64_t spent; /* monotonic: a minute for each line; it may lie at most an hour ahead */
	uint64_t untold;
};
void say_if_due(struct seldom *so_far, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* say(), then exit status 1. */
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

void *must_alloc(size_t size);                 /* zeroed; dies when there is no memory */
void *must_realloc(void *old, size_t size);
char *must_copy(const char *text);

/* memcpy for many bytes that nobody looks at soon: they go past the processor's caches where it can. */
void copy_out(void *to, const void *from, size_t size);

int64_t now_ns(void);                          /* CLOCK_REALTIME: what files' times are made of */
int64_t monotonic_ns(void);                    /* CLOCK_MONOTONIC: for deadlines */

uint32_t checksum(uint32_t before, const void *data, size_t size); /* CRC-32C */
void random_bytes(void *into, size_t size);

/* Calls `line` for each key=value of a text read from fd; dies at a line that is none. Lines with # are comments. */
void read_settings(int fd, void (*line)(const char *key, const char *value));
uint64_t setting_number(const char *key, const char *value); /* dies at what is no number */
void read_key(int fd, unsigned char key[KEY_SIZE]);          /* dies if there are fewer bytes; closes fd */

/* `text` as a JSON string, with its quotes. */
void json_string(FILE *out, const char *text);

/* Raises the limit of open files as far as it may go; the limit. */
uint64_t raise_file_limit(void);

#endif
