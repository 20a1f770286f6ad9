/* The store's log. A segment is removed when all before it are, and nothing in it is needed any more. */
#include "store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC 0x53424C32u
#define SEGMENT (64u << 20)

struct segment {
	uint32_t number;
	int fd;
	uint64_t size;
	int64_t live;
	bool broken; /* a sync failed: what it has may be lost at a power cut, whatever a later sync says */
};

static struct segment *segments;
static uint32_t segment_count;
static uint64_t last_sequence;
static bool appending;
static uint32_t readers;

static struct segment *segment_of(uint32_t number)
{
	for (uint32_t i = segment_count; i-- > 0;)
		if (segments[i].number == number)
			return &segments[i];
	return NULL;
}

static int segment_add(uint32_t number, bool fresh)
{
	char name[32];
	snprintf(name, sizeof name, "log.%010u", number);
	int fd = openat(store_directory, name, O_RDWR | O_CLOEXEC | (fresh ? O_CREAT | O_EXCL : 0), 0600);
	struct stat now;
	if (fd < 0 || fstat(fd, &now) || (fresh && fsync(store_directory))) {
		int error = errno;
		say_seldom("%s/%s: %s", S.store, name, strerror(error));
		if (fd >= 0)
			close(fd);
		if (fd >= 0 && fresh)
			unlinkat(store_directory, name, 0);
		return error;
	}
	segments = must_realloc(segments, (segment_count + 1) * sizeof *segments);
	segments[segment_count++] = (struct segment){.number = number, .fd = fd, .size = (uint64_t)now.st_size};
	return 0;
}

/* The last segment is full, or cannot be relied on. If there can be no other one, a full one grows. */
static int rotate(void)
{
	struct segment *last = &segments[segment_count - 1];
	uint64_t full = S.store_size / 4 < SEGMENT ? S.store_size / 4 : SEGMENT;
	if (last->size < full && !last->broken)
		return 0;
	int error = segment_add(last->number + 1, true);
	last = &segments[segment_count - (error ? 1 : 2)];
	if (!error && fdatasync(last->fd))
		last->broken = true;
	return last->broken ? error : 0;
}

/* The record that is just being written is not among what is stored yet: it belongs to the next drain. */
uint64_t store_mark(void)
{
	return appending ? last_sequence - 1 : last_sequence;
}

void log_live(uint32_t segment, int64_t bytes)
{
	struct segment *found = segment_of(segment);
	if (found)
		found->live += bytes;
}

uint64_t log_used(void)
{
	uint64_t used = 0;
	for (uint32_t i = 0; i < segment_count; i++)
		used += segments[i].size;
	return used;
}

static uint32_t record_checksum(const struct record *record, const struct iovec *data, int count)
{
	const size_t skipped = offsetof(struct record, type);
	uint32_t sum = checksum(0, (const char *)record + skipped, sizeof *record - skipped);
	for (int i = 0; i < count; i++)
		sum = checksum(sum, data[i].iov_base, data[i].iov_len);
	return sum;
}

static int append_locked(int fd, uint64_t position, struct record *record, const struct iovec *data, int count)
{
	static const char zeros[8];
	struct iovec parts[MAX_PARTS + 2];
	uint64_t size = sizeof *record + (record->length + 7u) / 8 * 8;
	parts[0] = (struct iovec){record, sizeof *record};
	if (count)
		memcpy(parts + 1, data, (size_t)count * sizeof *data);
	parts[count + 1] = (struct iovec){(void *)zeros, (8 - record->length % 8) % 8};
	record->checksum = record_checksum(record, data, count);
	ssize_t wrote = pwritev(fd, parts, count + 2, (off_t)position);
	return wrote < 0 ? errno : (uint64_t)wrote == size ? 0 : ENOSPC;
}

void log_turn(void)
{
	while (appending)
		pthread_cond_wait(&S.changed, &S.lock);
}

int log_append(struct record *record, const struct iovec *data, int count, struct place *place)
{
	log_turn();
	int error = rotate();
	if (error)
		return error;
	appending = true;
	struct segment *current = &segments[segment_count - 1];
	record->magic = MAGIC;
	record->length = 0;
	for (int i = 0; i < count; i++)
		record->length += (uint32_t)data[i].iov_len;
	if (!record->sequence)
		record->sequence = ++last_sequence;
	int fd = current->fd;
	uint64_t position = current->size;
	if (place)
		*place = (struct place){current->number, position + sizeof *record};
	pthread_mutex_unlock(&S.lock);
	error = append_locked(fd, position, record, data, count);
	pthread_mutex_lock(&S.lock);
	if (!error)
		segments[segment_count - 1].size += sizeof *record + (record->length + 7u) / 8 * 8;
	appending = false;
	pthread_cond_broadcast(&S.changed);
	return error;
}

int log_read(uint32_t number, uint64_t position, char *into, uint64_t size)
{
	struct segment *segment = segment_of(number);
	int error = segment ? 0 : EIO;
	if (error)
		return error;
	int fd = segment->fd;
	readers++;
	pthread_mutex_unlock(&S.lock);
	if (pread(fd, into, size, (off_t)position) != (ssize_t)size)
		error = EIO;
	pthread_mutex_lock(&S.lock);
	readers--;
	return error;
}

int log_sync_last(void)
{
	uint32_t number = segments[segment_count - 1].number;
	int fd = segments[segment_count - 1].fd, error = 0;
	readers++;
	pthread_mutex_unlock(&S.lock);
	if (fdatasync(fd))
		error = errno;
	pthread_mutex_lock(&S.lock);
	readers--;
	if (error)
		segment_of(number)->broken = true;
	return error;
}

int log_sync(void)
{
	int error = log_sync_last();
	for (uint32_t i = 0; i < segment_count && !error; i++)
		error = segments[i].broken ? EIO : 0;
	return error;
}

/* A few bytes that cannot be drained would keep all that came after them: they move to the end. */
static void move_on(uint32_t number)
{
	for (struct file *file = S.dirty_first; file; file = file->after)
		for (uint32_t i = 0; i < file->stored_count && !file->draining; i++) {
			struct stored piece = file->stored[i];
			if (piece.segment != number)
				continue;
			uint64_t size = piece.to - piece.from;
			char *copy = must_alloc(size);
			struct iovec part = {copy, size};
			struct record record = {.type = RECORD_SMALL, .sequence = piece.sequence, .ino = file->ino,
						.target = file->target, .offset = piece.from, .mtime = file->mtime};
			struct place place;
			uint64_t before = file->changes + file->drains;
			file->users++;
			int error = log_read(number, piece.position, copy, size);
			log_turn();
			/* A drain that ended meanwhile has taken the piece out: behind its record this one would bring it back. */
			if (!error && file->changes + file->drains == before && !file->draining &&
			    log_append(&record, &part, 1, &place) == 0 && file->changes + file->drains == before) {
				stored_put(file, piece.from, piece.to, piece.sequence, place);
				file->drains++;
			}
			free(copy);
			file_put(file);
			return; /* the list may be another one by now: the rest the next time */
		}
}

/* A file of which newer segments do not have all. */
static struct file *named_in(uint32_t number)
{
	struct file *file = S.dirty_first;
	while (file && (!file->logged || file->logged > number))
		file = file->after;
	return file;
}

void log_trim(void)
{
	char name[32];
	while (segment_count > 1 && segments[0].live <= 0 && !readers && !appending) {
		uint32_t number = segments[0].number;
		struct file *file = named_in(number);
		if (file) {
			file->users++;
			int error = store_file_state(file);
			file_put(file);
			if (error)
				return;
			continue; /* the lock was released meanwhile */
		}
		snprintf(name, sizeof name, "log.%010u", number);
		close(segments[0].fd);
		unlinkat(store_directory, name, 0);
		memmove(segments, segments + 1, --segment_count * sizeof *segments);
		pthread_cond_broadcast(&S.changed);
	}
	if (segment_count > 4 && segments[0].live > 0 && segments[0].live < (int64_t)segments[0].size / 4)
		move_on(segments[0].number);
}

static void replay_nothing_left(struct file *file)
{
	file->logged = 0;
	file->end = 0;
	file->mtime = 0;
}

static void replay_path(struct file *file, const struct record *record, const char *path, uint32_t segment)
{
	int64_t born = (int64_t)record->offset;
	if (born && file->born && born != file->born) { /* the number was given to another file, when nothing was left of this one */
		stored_remove(file, 0, UINT64_MAX, UINT64_MAX);
		replay_nothing_left(file);
		file->orphan = false;
	}
	free(file->path);
	file->path = must_copy(path);
	file->born = born;
	if (!file->logged)
		file->logged = segment;
}

static void replay_record(const struct record *record, char *data, struct place place)
{
	struct file *file = file_get(record->target, record->ino);
	uint64_t end = record->offset + record->length;
	uint32_t segment = place.segment;
	switch (record->type) {
	case RECORD_PATH:
		replay_path(file, record, data, segment);
		return;
	case RECORD_LARGE:
		end = record->offset + record->size;
		place = (struct place){OWN, record->offset};
		/* fall through */
	case RECORD_SMALL:
		stored_put(file, record->offset, end, record->sequence, place);
		if (!file->logged) /* its path went with an older segment: what is known of it is logged again when this one goes */
			file->logged = segment;
		file->mtime = record->mtime;
		file->end = end > file->end ? end : file->end;
		return;
	case RECORD_CUT:
		stored_remove(file, record->size, UINT64_MAX, UINT64_MAX);
		file->end = record->size < file->end ? record->size : file->end;
		return;
	case RECORD_TIME:
		file->mtime = record->mtime;
		return;
	case RECORD_DRAINED:
		stored_remove(file, 0, UINT64_MAX, record->size);
		if (!file->stored_count)
			replay_nothing_left(file);
		return;
	case RECORD_ORPHAN:
		file->orphan = true;
		file->orphaned = monotonic_ns();
		return;
	case RECORD_GONE:
		file->orphan = false;
		stored_remove(file, 0, UINT64_MAX, UINT64_MAX);
		replay_nothing_left(file);
		return;
	}
}

static void replay_segment(struct segment *segment)
{
	char *data = must_alloc(MAX_PAYLOAD + 8);
	uint64_t position = 0, size = segment->size;
	uint32_t number = segment->number;
	int fd = segment->fd;
	struct record record;
	while (position + sizeof record <= size) {
		if (pread(fd, &record, sizeof record, (off_t)position) != sizeof record || record.magic != MAGIC ||
		    record.length > MAX_PAYLOAD || record.target >= S.target_count ||
		    pread(fd, data, record.length, (off_t)(position + sizeof record)) != (ssize_t)record.length)
			break;
		struct iovec part = {data, record.length};
		if (record.checksum != record_checksum(&record, &part, 1))
			break;
		data[record.length] = 0;
		replay_record(&record, data, (struct place){number, position + sizeof record});
		if (record.sequence > last_sequence)
			last_sequence = record.sequence;
		position += sizeof record + (record.length + 7u) / 8 * 8;
	}
	if (position < size)
		say("%s: segment %u ends at %llu of %llu bytes", S.store, number, (unsigned long long)position,
		    (unsigned long long)size);
	free(data);
}

static int by_number(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
	return left < right ? -1 : left > right;
}

void log_start(void)
{
	uint32_t *numbers = NULL, count = 0;
	DIR *list = opendir(S.store);
	struct dirent *entry;
	if (!list)
		die("%s: %s", S.store, strerror(errno));
	while ((entry = readdir(list)))
		if (strncmp(entry->d_name, "log.", 4) == 0) {
			numbers = must_realloc(numbers, (count + 1) * sizeof *numbers);
			numbers[count++] = (uint32_t)strtoul(entry->d_name + 4, NULL, 10);
		}
	closedir(list);
	if (count)
		qsort(numbers, count, sizeof *numbers, by_number);
	for (uint32_t i = 0; i < count; i++)
		if (segment_add(numbers[i], false))
			die("the log of %s cannot be read", S.store);
	for (uint32_t i = 0; i < count; i++)
		replay_segment(&segments[i]);
	if (segment_add(count ? numbers[count - 1] + 1 : 1, true))
		die("the log of %s cannot be written", S.store);
	free(numbers);
}
