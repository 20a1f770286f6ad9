/* The store: where bytes are that the target has not. docs/sbb.md */
#include "store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LARGE (64u << 10) /* a write of more goes into the file's own file */

int store_directory = -1;
static bool replaying;
static uint64_t own_bytes;

static uint32_t first_behind(const struct file *file, uint64_t offset)
{
	uint32_t low = 0, high = file->stored_count;
	while (low < high) {
		uint32_t middle = (low + high) / 2;
		if (file->stored[middle].to <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void count_piece(const struct stored *piece, int sign)
{
	int64_t size = (int64_t)(piece->to - piece->from);
	if (piece->segment == OWN)
		own_bytes += (uint64_t)(sign * size);
	else
		log_live(piece->segment, sign * size);
}

static void insert(struct file *file, uint32_t at, struct stored piece)
{
	if (piece.from >= piece.to)
		return;
	if (file->stored_count == file->stored_room) {
		file->stored_room = file->stored_room ? file->stored_room * 2 : 4;
		file->stored = must_realloc(file->stored, file->stored_room * sizeof piece);
	}
	memmove(file->stored + at + 1, file->stored + at, (file->stored_count - at) * sizeof piece);
	file->stored[at] = piece;
	file->stored_count++;
	count_piece(&piece, 1);
}

static struct stored part_of(struct stored piece, uint64_t from, uint64_t to)
{
	piece.position += from - piece.from;
	piece.from = from;
	piece.to = to;
	return piece;
}

static void punch(struct file *file, uint64_t from, uint64_t to)
{
	if (file->own_fd >= 0)
		fallocate(file->own_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)(to - from));
}

uint64_t stored_remove(struct file *file, uint64_t from, uint64_t to, uint64_t upto)
{
	uint64_t gone = 0;
	for (uint32_t at = first_behind(file, from); at < file->stored_count && file->stored[at].from < to;) {
		struct stored piece = file->stored[at];
		if (piece.sequence > upto) {
			at++;
			continue;
		}
		uint64_t cut_from = piece.from > from ? piece.from : from, cut_to = piece.to < to ? piece.to : to;
		count_piece(&piece, -1);
		memmove(file->stored + at, file->stored + at + 1, (--file->stored_count - at) * sizeof piece);
		gone += cut_to - cut_from;
		if (piece.from < cut_from)
			insert(file, at++, part_of(piece, piece.from, cut_from));
		if (cut_to < piece.to)
			insert(file, at++, part_of(piece, cut_to, piece.to));
	}
	return gone;
}

uint64_t stored_put(struct file *file, uint64_t from, uint64_t to, uint64_t sequence, struct place place)
{
	uint64_t gone = stored_remove(file, from, to, UINT64_MAX);
	uint32_t at = first_behind(file, from);
	struct stored *before = at ? &file->stored[at - 1] : NULL;
	bool leaving = file->draining && before && before->sequence <= file->mark;
	if (place.segment == OWN && before && before->segment == OWN && before->to == from && before->sequence <= sequence &&
	    !leaving && !replaying) { /* in a replay the next record may say that one of them was drained */
		before->to = to; /* one piece for a long run of writes; the later sequence holds for all of it */
		before->sequence = sequence;
		own_bytes += to - from;
	} else {
		insert(file, at, (struct stored){from, to, sequence, place.position, place.segment});
	}
	return to - from - gone;
}

static void own_name(const struct file *file, char name[64])
{
	snprintf(name, 64, "data.%u.%llu", file->target, (unsigned long long)file->ino);
}

int own_open(struct file *file)
{
	char name[64];
	if (file->own_fd >= 0)
		return 0;
	own_name(file, name);
	file->own_fd = openat(store_directory, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return file->own_fd < 0 ? errno : 0;
}

static void own_remove(struct file *file)
{
	char name[64];
	own_name(file, name);
	if (file->own_fd >= 0) {
		close(file->own_fd);
		file->own_fd = -1;
		unlinkat(store_directory, name, 0);
	}
}

static int note(struct file *file, uint32_t type, uint64_t offset, uint64_t size, uint64_t sequence)
{
	log_turn();
	struct record record = {.type = type, .ino = file->ino, .target = file->target, .offset = offset, .size = size,
				.mtime = file->mtime, .sequence = sequence};
	return log_append(&record, NULL, 0, NULL);
}

static int note_path(struct file *file, uint32_t *segment)
{
	log_turn();
	struct record record = {.type = RECORD_PATH, .ino = file->ino, .target = file->target,
				.offset = (uint64_t)file->born};
	char *path = must_copy(file->path);
	struct iovec part = {path, strlen(path)};
	struct place place;
	int error = log_append(&record, &part, 1, &place);
	free(path);
	*segment = place.segment;
	if (!error && file->orphan)
		error = note(file, RECORD_ORPHAN, 0, 0, 0);
	return error;
}

int store_path(struct file *file)
{
	uint32_t segment;
	int error = note_path(file, &segment);
	if (!error && !file->logged)
		file->logged = segment; /* not before: what others log of it must come behind */
	return error;
}

int store_file_state(struct file *file)
{
	uint32_t segment;
	uint64_t before;
	int error = note_path(file, &segment);
	if (!error)
		error = note(file, RECORD_TIME, 0, 0, 0);
	do { /* what changes while this is written has records of its own, in between: then once more */
		log_turn();
		before = file->changes + file->drains;
		for (uint32_t i = 0; i < file->stored_count && !error && file->changes + file->drains == before; i++) {
			struct stored piece = file->stored[i];
			if (piece.segment == OWN)
				error = note(file, RECORD_LARGE, piece.from, piece.to - piece.from, piece.sequence);
			log_turn();
		}
	} while (!error && file->changes + file->drains != before);
	if (!error && file->logged)
		file->logged = segment;
	return error;
}

static int wait_for_room(uint32_t size)
{
	while (log_used() + own_bytes + size + (1 << 20) > S.store_size) {
		S.waiting++;
		pthread_cond_broadcast(&S.changed);
		pthread_cond_wait(&S.changed, &S.lock);
		S.waiting--;
	}
	return 0;
}

static int write_own(struct file *file, uint64_t offset, struct iovec *parts, int count, uint32_t size)
{
	int error = own_open(file), fd = file->own_fd;
	if (error)
		return error;
	file->own_users++;
	pthread_mutex_unlock(&S.lock);
	ssize_t wrote = pwritev(fd, parts, count, (off_t)offset);
	error = wrote < 0 ? errno : wrote == size ? 0 : ENOSPC;
	pthread_mutex_lock(&S.lock);
	file->own_users--;
	pthread_cond_broadcast(&S.changed);
	return error;
}

/* From a copy: another client may write over the same place of a block while the log writes it, and a record that does not fit
 * its checksum would end the replay there. */
static int append_small(struct record *record, const struct iovec *parts, int count, uint32_t size, struct place *place)
{
	struct iovec copy = {must_alloc(size), 0};
	for (int i = 0; i < count; i++) {
		memcpy((char *)copy.iov_base + copy.iov_len, parts[i].iov_base, parts[i].iov_len);
		copy.iov_len += parts[i].iov_len;
	}
	int error = log_append(record, &copy, 1, place);
	free(copy.iov_base);
	return error;
}

int store_write(struct file *file, uint64_t offset, struct iovec *parts, int count, uint32_t size, int64_t mtime)
{
	struct record record = {.type = size > LARGE ? RECORD_LARGE : RECORD_SMALL, .ino = file->ino,
				.target = file->target, .offset = offset, .size = size, .mtime = mtime};
	struct place place = {OWN, offset};
	uint32_t left = size;
	int error;
	for (int i = 0; i < count; i++) { /* a client that died sent less */
		parts[i].iov_len = parts[i].iov_len < left ? parts[i].iov_len : left;
		left -= (uint32_t)parts[i].iov_len;
	}
	wait_for_room(size);
	while (file->settling) /* its own file may just be going away */
		pthread_cond_wait(&S.changed, &S.lock);
	if (file->dropped) /* while this waited: nobody can name it, and its number is another file's */
		return 0;
	file->own_users++;
	error = file->logged ? 0 : store_path(file);
	if (!error && record.type == RECORD_LARGE)
		error = write_own(file, offset, parts, count, size);
	if (!error)
		error = record.type == RECORD_LARGE ? log_append(&record, NULL, 0, NULL)
						    : append_small(&record, parts, count, size, &place);
	file->own_users--;
	pthread_cond_broadcast(&S.changed);
	if (error)
		return error;
	uint64_t fresh = stored_put(file, offset, offset + size, record.sequence, place);
	file_dirtied(file, fresh, offset + size, mtime);
	return 0;
}

static int read_piece(struct file *file, const struct stored *piece, char *into)
{
	uint64_t size = piece->to - piece->from;
	if (piece->segment != OWN)
		return log_read(piece->segment, piece->position, into, size);
	int fd = file->own_fd, error = fd < 0 ? EIO : 0;
	if (error)
		return error;
	file->own_users++;
	pthread_mutex_unlock(&S.lock);
	ssize_t got = pread(fd, into, size, (off_t)piece->from);
	pthread_mutex_lock(&S.lock);
	file->own_users--;
	pthread_cond_broadcast(&S.changed);
	return got == (ssize_t)size ? 0 : EIO;
}

int store_read(struct file *file, uint64_t offset, uint32_t size, char *into)
{
	uint64_t drains = file->drains;
	for (uint64_t at = offset, end = offset + size; at < end && file->drains == drains;) {
		uint32_t i = first_behind(file, at);
		if (i == file->stored_count || file->stored[i].from >= end)
			break;
		struct stored piece = file->stored[i];
		piece = part_of(piece, piece.from > at ? piece.from : at, piece.to < end ? piece.to : end);
		int error = read_piece(file, &piece, into + (piece.from - offset));
		if (error && file->drains == drains)
			return error;
		at = piece.to;
	}
	return 0;
}

uint64_t store_collect(struct file *file, uint64_t from, uint64_t room, uint64_t *offset, char *into, int *error)
{
	uint64_t size = 0;
	while (size < room) {
		uint32_t i = first_behind(file, from);
		if (i == file->stored_count || (size && file->stored[i].from > from))
			break;
		struct stored piece = file->stored[i];
		uint64_t start = piece.from > from ? piece.from : from;
		uint64_t stop = piece.to - start > room - size ? start + room - size : piece.to;
		piece = part_of(piece, start, stop);
		if (!size)
			*offset = start;
		uint64_t changes = file->changes;
		int failed = read_piece(file, &piece, into + size);
		if (failed && file->changes == changes) {
			*error = failed;
			return 0;
		}
		if (failed)
			continue; /* a writer replaced it */
		size += stop - start;
		from = stop;
	}
	return size;
}

/* Whether bytes of the file's own file are behind `from`, of writes up to the mark. */
static bool has_own(const struct file *file, uint64_t from, uint64_t mark)
{
	for (uint32_t i = first_behind(file, from); i < file->stored_count; i++)
		if (file->stored[i].segment == OWN && file->stored[i].sequence <= mark)
			return true;
	return false;
}

static void wait_until_unused(struct file *file)
{
	while (file->own_users)
		pthread_cond_wait(&S.changed, &S.lock);
}

/* Between these two nobody writes into the store what belongs to this file. */
static void settle_begin(struct file *file)
{
	while (file->settling)
		pthread_cond_wait(&S.changed, &S.lock);
	file->settling = true;
	wait_until_unused(file);
}

static void settle_end(struct file *file)
{
	file->settling = false;
	pthread_cond_broadcast(&S.changed);
}

static void forget_stored(struct file *file, uint64_t from, uint64_t mark)
{
	uint64_t gone = stored_remove(file, from, UINT64_MAX, mark);
	file->bytes -= gone;
	S.dirty_bytes -= gone;
	file->drains++;
}

/* A copy of what is in the file's own file, of writes up to the mark; to be freed. */
static struct stored *own_pieces(const struct file *file, uint64_t mark, uint32_t *count)
{
	struct stored *pieces = must_alloc(file->stored_count * sizeof *pieces);
	*count = 0;
	for (uint32_t i = 0; i < file->stored_count; i++)
		if (file->stored[i].sequence <= mark && file->stored[i].segment == OWN)
			pieces[(*count)++] = file->stored[i];
	return pieces;
}

int store_drained(struct file *file, uint64_t mark)
{
	uint32_t count;
	settle_begin(file);
	int error = note(file, RECORD_DRAINED, 0, mark, 0);
	if (error) {
		settle_end(file);
		return error;
	}
	/* At once: who logs the file's state now must not put drained pieces behind the record that ended them. */
	struct stored *pieces = own_pieces(file, mark, &count);
	forget_stored(file, 0, mark);
	/* Bytes go, and newer ones come to the target, when the log says so for good: after a power cut it would replay holes
	 * otherwise, or write what is older over what is newer. */
	error = log_sync_last();
	wait_until_unused(file);
	for (uint32_t i = 0; !error && i < count; i++)
		punch(file, pieces[i].from, pieces[i].to);
	free(pieces);
	if (!error && !file->stored_count) {
		own_remove(file);
		file->logged = 0;
	}
	settle_end(file);
	log_trim();
	return error;
}

void store_tidy(void)
{
	log_trim();
}

int store_cut(struct file *file, uint64_t size)
{
	int error = 0;
	settle_begin(file);
	if (file->logged)
		error = note(file, RECORD_CUT, 0, size, 0);
	if (file->logged && !error) {
		bool own = has_own(file, size, UINT64_MAX);
		forget_stored(file, size, UINT64_MAX);
		if (own && log_sync_last() == 0) {
			wait_until_unused(file);
			punch(file, size, (uint64_t)INT64_MAX - size);
		}
	}
	settle_end(file);
	return error;
}

void store_forget(struct file *file)
{
	int error = 0;
	settle_begin(file);
	if (file->logged)
		error = note(file, RECORD_GONE, 0, 0, 0);
	file->logged = 0;
	if (file->own_fd >= 0 && !error)
		error = log_sync_last();
	wait_until_unused(file);
	if (!error)
		own_remove(file);
	settle_end(file);
}

void store_time(struct file *file)
{
	if (file->logged)
		note(file, RECORD_TIME, 0, 0, 0);
}

void store_orphan(struct file *file)
{
	if (file->logged)
		note(file, RECORD_ORPHAN, 0, 0, 0);
}

int store_sync(struct file *file)
{
	int error = 0;
	if (file->own_fd >= 0) {
		int fd = file->own_fd;
		file->own_users++;
		pthread_mutex_unlock(&S.lock);
		if (fdatasync(fd) || fsync(store_directory))
			error = errno;
		pthread_mutex_lock(&S.lock);
		file->own_users--;
		pthread_cond_broadcast(&S.changed);
	}
	int failed = log_sync();
	return error ? error : failed;
}

uint64_t store_used(void)
{
	return log_used() + own_bytes;
}

static void read_epoch(void)
{
	int fd = openat(store_directory, "epoch", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	uint64_t epoch;
	if (fd < 0)
		die("%s/epoch: %s", S.store, strerror(errno));
	if (read(fd, &epoch, sizeof epoch) == sizeof epoch)
		S.epoch = epoch;
	else if (pwrite(fd, &S.epoch, sizeof S.epoch, 0) != sizeof S.epoch || fsync(fd))
		die("%s/epoch: %s", S.store, strerror(errno));
	close(fd);
}

static bool is_known(const char *name)
{
	unsigned int target;
	unsigned long long ino;
	if (sscanf(name, "data.%u.%llu", &target, &ino) != 2 || target >= S.target_count)
		return true; /* not ours to judge */
	struct file *file = file_find(target, ino);
	return file && file->stored_count;
}

void store_start(void)
{
	DIR *list;
	struct dirent *entry;
	uint32_t files = 0;
	store_directory = open(S.store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (store_directory < 0)
		die("%s: %s", S.store, strerror(errno));
	read_epoch();
	pthread_mutex_lock(&S.lock);
	replaying = true;
	log_start();
	replaying = false;
	for (uint32_t i = 0; i < S.table_size; i++)
		for (struct file *file = S.table[i]; file; file = file->next) {
			uint64_t bytes = 0;
			for (uint32_t p = 0; p < file->stored_count; p++)
				bytes += file->stored[p].to - file->stored[p].from;
			if (!bytes) { /* a later write logs its path again: nobody would, when this segment goes */
				file->logged = 0;
				continue;
			}
			int64_t mtime = file->mtime;
			own_open(file);
			file_dirtied(file, bytes, file->stored[file->stored_count - 1].to, mtime);
			files++;
		}
	list = opendir(S.store);
	while (list && (entry = readdir(list)))
		if (strncmp(entry->d_name, "data.", 5) == 0 && !is_known(entry->d_name))
			unlinkat(store_directory, entry->d_name, 0);
	if (list)
		closedir(list);
	pthread_mutex_unlock(&S.lock);
	if (files)
		say("%s: %u files with %llu bytes are here again", S.store, files, (unsigned long long)S.dirty_bytes);
}
