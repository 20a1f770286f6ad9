/*
 * Draining: threads that take the file which has waited longest and write what is dirty of it to the target, in the order of
 * its bytes and in large pieces; then its time of modification. What fails is kept and tried again.
 */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define THREADS 4
#define ORPHAN_TIME 60000000000 /* ns; its client may be about to connect again */
#define PIECE (8u << 20)
#define PIECE_PARTS (PIECE / BLOCK + 1)

struct piece {
	uint64_t offset, size;
	int count;
	struct iovec parts[PIECE_PARTS];
	struct block *blocks[PIECE_PARTS];
	char *copy; /* of bytes that come from the store */
};

static int64_t allowed_at; /* when the rate lets the next piece go */

static bool is_due(const struct file *file, int64_t now)
{
	if (file->draining || file->cutting || file->retry_at > now)
		return false;
	/* A writer that waits for room may have pinned what a truncate waits for; and unlinked bytes would fill all of it. */
	if ((file->cuts_due && !S.waiting) || (file->orphan && !(S.waiting && file->held)))
		return false;
	if (file_is_wanted(file) || S.state != RUNNING || S.waiting)
		return true;
	uint64_t room = has_store() ? S.store_size : S.memory;
	return now - file->since >= S.drain_delay || S.dirty_bytes > room / 2;
}

static struct file *next_file(int64_t now)
{
	struct file *file = S.dirty_first;
	while (file && !is_due(file, now))
		file = file->after;
	return file;
}

static bool first_dirty(struct file *file, uint64_t from, struct block **found, struct range *range)
{
	for (struct block *block = block_from(file, from / BLOCK); block; block = block_from(file, block->number + 1)) {
		uint32_t low = block->number == from / BLOCK ? (uint32_t)(from % BLOCK) : 0;
		for (uint32_t i = 0; i < block->dirty.count; i++) {
			*range = ranges_all(&block->dirty)[i];
			if (range->to <= low)
				continue;
			if (range->from < low)
				range->from = low;
			*found = block;
			return true;
		}
	}
	return false;
}

/* The first run of dirty bytes at or behind `from`: pinned, and marked as being written. */
static bool collect(struct file *file, uint64_t from, struct piece *piece)
{
	struct block *block;
	struct range range;
	memset(piece, 0, offsetof(struct piece, parts));
	while (piece->count < (int)PIECE_PARTS - 1 && first_dirty(file, from, &block, &range)) {
		uint64_t at = block->number * BLOCK + range.from;
		if (piece->count && at != piece->offset + piece->size)
			break;
		if (!piece->count)
			piece->offset = at;
		ranges_remove(&block->dirty, range.from, range.to);
		ranges_add(&block->writing, range.from, range.to);
		block->pins++;
		piece->blocks[piece->count] = block;
		piece->parts[piece->count++] = (struct iovec){block->memory + range.from, range.to - range.from};
		piece->size += range.to - range.from;
		from = at + (range.to - range.from);
	}
	return piece->count > 0;
}

/* The piece is on the target, or is dirty again. */
static void settle(struct file *file, struct piece *piece, bool done)
{
	for (int i = 0; i < piece->count; i++) {
		struct block *block = piece->blocks[i];
		uint32_t from = (uint32_t)((char *)piece->parts[i].iov_base - block->memory);
		uint32_t to = from + (uint32_t)piece->parts[i].iov_len;
		uint64_t gone = ranges_remove(&block->writing, from, to);
		if (!done)
			gone -= ranges_add(&block->dirty, from, to);
		file->bytes -= gone;
		S.dirty_bytes -= gone;
		block_touch(block);
		block_unpin(block);
	}
}

static void keep_rate(uint64_t bytes)
{
	if (!S.drain_rate)
		return;
	int64_t now = monotonic_ns();
	if (allowed_at < now)
		allowed_at = now;
	allowed_at += (int64_t)((double)bytes / (double)S.drain_rate * 1e9);
	struct timespec until = {allowed_at / 1000000000, allowed_at % 1000000000};
	pthread_mutex_unlock(&S.lock);
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	pthread_mutex_lock(&S.lock);
}

static int write_all(int fd, const struct piece *piece)
{
	struct iovec parts[PIECE_PARTS], *part = parts;
	int count = piece->count;
	uint64_t offset = piece->offset;
	memcpy(parts, piece->parts, (size_t)count * sizeof *parts);
	while (count) {
		ssize_t wrote = pwritev(fd, part, count, (off_t)offset);
		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote <= 0)
			return wrote ? errno : EIO;
		offset += (uint64_t)wrote;
		while (count && (size_t)wrote >= part->iov_len)
			wrote -= (ssize_t)part->iov_len, part++, count--;
		if (count) {
			part->iov_base = (char *)part->iov_base + wrote;
			part->iov_len -= (size_t)wrote;
		}
	}
	return 0;
}

static bool next_piece(struct file *file, uint64_t from, struct piece *piece, int *error)
{
	if (!has_store())
		return collect(file, from, piece);
	memset(piece, 0, offsetof(struct piece, parts));
	piece->copy = must_alloc(PIECE);
	piece->size = store_collect(file, from, PIECE, &piece->offset, piece->copy, error);
	piece->parts[0] = (struct iovec){piece->copy, piece->size};
	piece->count = 1;
	if (!piece->size)
		free(piece->copy);
	return piece->size > 0;
}

static int drain_bytes(struct file *file)
{
	static _Thread_local struct piece piece;
	uint64_t from = 0;
	int error = 0;
	while (!error && next_piece(file, from, &piece, &error)) {
		uint64_t size = piece.size;
		int fd = file->fd;
		pthread_mutex_unlock(&S.lock);
		error = write_all(fd, &piece);
		/* Blocks that are clean may be evicted, and network file systems tell only here that there was no room. */
		if (!error && !has_store() && fdatasync(fd))
			error = errno;
		pthread_mutex_lock(&S.lock);
		from = piece.offset + size;
		if (has_store()) {
			free(piece.copy);
		} else {
			settle(file, &piece, !error);
		}
		if (!error) {
			S.drained_bytes += size;
			file->drains++;
			if (from > file->known)
				file->known = from;
			pthread_cond_broadcast(&S.changed);
			keep_rate(size);
		}
	}
	return error;
}

/*
 * All bytes are written that there were when `changes` was read: makes them durable if that was asked for, checks them, and sets
 * the time they were written at, unless a writer came meanwhile; then that is for the next time.
 */
static int finish(struct file *file, uint64_t changes)
{
	bool sure = file_is_wanted(file) || S.state != RUNNING || has_store();
	int fd = file->fd, error = 0;
	pthread_mutex_unlock(&S.lock);
	if (has_store() && fdatasync(fd)) /* without, each piece was synced */
		error = errno;
	if (sure && !error && !has_store())
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); /* so that what is verified comes from below */
	pthread_mutex_lock(&S.lock);
	if (!error && sure && file->changes == changes && !file->writers)
		error = file_verify(file);
	if (error) {
		file_dirty_again(file);
		return error;
	}
	if (!file->mtime || file->changes != changes)
		return 0;
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {file->mtime / 1000000000, file->mtime % 1000000000}};
	file->timing = true; /* a program that sets another time waits, so that its one comes after this one */
	pthread_mutex_unlock(&S.lock);
	if (futimens(fd, times) && errno != EPERM)
		error = errno;
	pthread_mutex_lock(&S.lock);
	file->timing = false;
	pthread_cond_broadcast(&S.changed);
	return error;
}

static void drain_file(struct file *file)
{
	file->draining = true;
	file->users++;
	if (file_open(file, true)) {
		uint64_t changes = file->changes;
		file->mark = has_store() ? store_mark() : 0;
		int error = drain_bytes(file);
		if (error)
			file_failed(file, "cannot be written", error);
		else if ((error = finish(file, changes)))
			file_failed(file, error == EILSEQ ? "differs after it was written" : "cannot be synced", error);
		if (!error && has_store() && (error = store_drained(file, file->mark)))
			file_failed(file, "the store's log", error);
		if (!error)
			file_drained(file, changes);
		if (!error && file->changes == changes && !file->writers && !file->bytes)
			file_clean(file);
		file_use_end(file);
	}
	file->draining = false;
	file->since = monotonic_ns();
	pthread_cond_broadcast(&S.changed);
	file_put(file);
}

int drain_wait(struct file *file)
{
	int error = 0;
	uint64_t wanted = file->changes; /* not what writers bring from now on: they may never pause */
	file->users++;
	file->retry_at = 0;
	if (file->wanted < wanted)
		file->wanted = wanted;
	pthread_cond_broadcast(&S.changed);
	while (file->buffered && !file->orphan && file->safe < wanted && !error) {
		if (file->error && file->retry_at > monotonic_ns())
			error = EIO;
		else
			pthread_cond_wait(&S.changed, &S.lock);
	}
	file_put(file);
	return error;
}

static void *drain(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&S.lock);
	for (;;) {
		struct file *file = next_file(monotonic_ns());
		if (file) {
			drain_file(file);
			continue;
		}
		int64_t later = now_ns() + 200000000;
		struct timespec until = {later / 1000000000, later % 1000000000};
		pthread_cond_timedwait(&S.changed, &S.lock, &until);
	}
	return NULL;
}

/* Its home knows who has it open; the others know when there is nobody at all. */
static bool is_abandoned(const struct file *file)
{
	if (!file->orphan)
		return false;
	return home_of(file->ino, S.count) == S.index ? !file->opener_count : !S.client_count;
}

/* Unlinked files whose clients are gone, and the rate of the last seconds. */
static void *housekeeping(void *unused)
{
	uint64_t before = 0;
	(void)unused;
	for (;;) {
		sleep(1);
		pthread_mutex_lock(&S.lock);
		S.measured_rate = S.measured_rate * 0.7 + (double)(S.drained_bytes - before) * 0.3;
		before = S.drained_bytes;
		if (has_store())
			store_tidy();
		for (uint32_t i = 0; i < S.table_size; i++)
			for (struct file *file = S.table[i], *next; file; file = next) {
				next = file->next;
				if (is_abandoned(file) && monotonic_ns() - file->orphaned > ORPHAN_TIME) {
					file_drop(file); /* releases the lock meanwhile: the list may be another one now */
					break;
				}
			}
		pthread_mutex_unlock(&S.lock);
	}
	return NULL;
}

void drain_start(void)
{
	pthread_t thread;
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&thread, NULL, drain, NULL))
			die("no thread");
	if (pthread_create(&thread, NULL, housekeeping, NULL))
		die("no thread");
}
