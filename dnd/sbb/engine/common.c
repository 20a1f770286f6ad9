#include "common.h"

#include <errno.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ll

/* untold: lines like this one that were left out before it. */
static void line(uint64_t untold, const char *format, va_list values)
{
	char text[1024];
	const size_t most = sizeof text - 64; /* what follows the message has room, too */
	struct timespec now;
	struct tm parts;
	clock_gettime(CLOCK_REALTIME, &now);
	localtime_r(&now.tv_sec, &parts);
	size_t used = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
	used += (size_t)snprintf(text + used, sizeof text - used, ".%03ld %s: ", now.tv_nsec / 1000000,
				 program_invocation_short_name);
	used += (size_t)vsnprintf(text + used, most - used, format, values);
	if (used > most - 1)
		used = most - 1;
	if (untold)
		used += (size_t)snprintf(text + used, sizeof text - 1 - used, " (%llu more were not told)",
					 (unsigned long long)untold);
	for (size_t i = 0; i < used; i++)
		if ((unsigned char)text[i] < ' ')
			text[i] = '?'; /* a file's name may have a line's end in it, and is no line of its own */
	text[used++] = '\n';
	if (write(STDERR_FILENO, text, used) < 0)
		return;
}

void say(const char *format, ...)
{
	va_list values;
	va_start(values, format);
	line(0, format, values);
	va_end(values);
}

static bool is_due(struct seldom *so_far, uint64_t *untold)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	int64_t now = monotonic_ns();
	pthread_mutex_lock(&lock);
	if (so_far->spent < now)
		so_far->spent = now;
	bool due = now >= so_far->next && so_far->spent - now < 3600 * SECOND;
	if (due) {
		*untold = so_far->untold;
		*so_far = (struct seldom){now + SECOND, so_far->spent + 60 * SECOND, 0};
	} else {
		so_far->untold++;
	}
	pthread_mutex_unlock(&lock);
	return due;
}

void say_if_due(struct seldom *so_far, const char *format, ...)
{
	va_list values;
	uint64_t untold;
	if (!is_due(so_far, &untold))
		return;
	va_start(values, format);
	line(untold, format, values);
	va_end(values);
}

void die(const char *format, ...)
{
	va_list values;
	va_start(values, format);
	line(0, format, values);
	va_end(values);
	exit(1);
}

void *must_alloc(size_t size)
{
	void *memory = calloc(1, size ? size : 1);
	if (!memory)
		die("no memory for %zu bytes", size);
	return memory;
}

void *must_realloc(void *old, size_t size)
{
	void *memory = realloc(old, size);
	if (!memory)
		die("no memory for %zu bytes", size);
	return memory;
}

char *must_copy(const char *text)
{
	size_t size = strlen(text) + 1;
	return memcpy(must_alloc(size), text, size);
}

#if defined __SSE2__ && !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__
#define LINE 64
#define WORTH 16384

void copy_out(void *to, const void *from, size_t size)
{
	size_t before = -(uintptr_t)to % LINE;
	if (size < WORTH) {
		memcpy(to, from, size);
		return;
	}
	memcpy(to, from, before);
	char *into = (char *)to + before;
	const char *bytes = (const char *)from + before;
	for (size -= before; size >= LINE; size -= LINE, into += LINE, bytes += LINE) {
		__m128i part[LINE / sizeof(__m128i)];
		memcpy(part, bytes, LINE);
		for (size_t i = 0; i < LINE / sizeof *part; i++)
			_mm_stream_si128((__m128i *)into + i, part[i]);
	}
	_mm_sfence();
	memcpy(into, bytes, size);
}
#else
void copy_out(void *to, const void *from, size_t size)
{
	memcpy(to, from, size);
}
#endif

static int64_t clock_ns(clockid_t clock)
{
	struct timespec now;
	clock_gettime(clock, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t now_ns(void)
{
	return clock_ns(CLOCK_REALTIME);
}

int64_t monotonic_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static uint32_t crc_table[8][256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void fill_crc_table(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
		crc_table[0][i] = crc;
	}
	for (int t = 1; t < 8; t++)
		for (uint32_t i = 0; i < 256; i++)
			crc_table[t][i] = crc_table[t - 1][i] >> 8 ^ crc_table[0][crc_table[t - 1][i] & 255];
}

uint32_t checksum(uint32_t before, const void *data, size_t size)
{
	const unsigned char *byte = data;
	uint32_t crc = ~before;
	pthread_once(&crc_once, fill_crc_table);
	for (; size >= 8; size -= 8, byte += 8) {
		crc ^= (uint32_t)byte[0] | (uint32_t)byte[1] << 8 | (uint32_t)byte[2] << 16 | (uint32_t)byte[3] << 24;
		crc = crc_table[7][crc & 255] ^ crc_table[6][crc >> 8 & 255] ^ crc_table[5][crc >> 16 & 255] ^
		      crc_table[4][crc >> 24] ^ crc_table[3][byte[4]] ^ crc_table[2][byte[5]] ^
		      crc_table[1][byte[6]] ^ crc_table[0][byte[7]];
	}
	while (size--)
		crc = crc >> 8 ^ crc_table[0][(crc ^ *byte++) & 255];
	return ~crc;
}

void random_bytes(void *into, size_t size)
{
	if (getrandom(into, size, 0) != (ssize_t)size)
		die("no random bytes: %s", strerror(errno));
}

void read_settings(int fd, void (*each)(const char *key, const char *value))
{
	FILE *file = fdopen(fd, "r");
	char *text = NULL;
	size_t room = 0;
	ssize_t length;
	if (!file)
		die("the configuration cannot be read: %s", strerror(errno));
	while ((length = getline(&text, &room, file)) > 0) {
		if (text[length - 1] == '\n')
			text[length - 1] = 0;
		if (!*text || *text == '#')
			continue;
		char *equals = strchr(text, '=');
		if (!equals)
			die("configuration: \"%s\" is no key=value", text);
		*equals = 0;
		each(text, equals + 1);
	}
	free(text);
	fclose(file);
}

uint64_t setting_number(const char *key, const char *value)
{
	char *end;
	errno = 0;
	unsigned long long number = strtoull(value, &end, 10);
	if (errno || end == value || *end || *value == '-')
		die("configuration: %s=%s is no number of units", key, value);
	return number;
}

void read_key(int fd, unsigned char key[KEY_SIZE])
{
	size_t have = 0;
	while (have < KEY_SIZE) {
		ssize_t got = read(fd, key + have, KEY_SIZE - have);
		if (got <= 0)
			die("the key on descriptor %d has %zu bytes, not %d", fd, have, KEY_SIZE);
		have += (size_t)got;
	}
	close(fd);
}

void json_string(FILE *out, const char *text)
{
	fputc('"', out);
	for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
		if (*c == '"' || *c == '\\')
			fprintf(out, "\\%c", *c);
		else if (*c < 32)
			fprintf(out, "\\u%04x", *c);
		else
			fputc(*c, out);
	}
	fputc('"', out);
}

uint64_t raise_file_limit(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit))
		return 1024;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		getrlimit(RLIMIT_NOFILE, &limit);
	return limit.rlim_cur;
}
