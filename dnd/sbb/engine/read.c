/* Reading: from memory, and into memory from the target (and over it from the store). */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool first_gap(struct file *file, uint64_t offset, uint32_t size, uint64_t *at)
{
	for (uint64_t end = offset + size; offset < end;) {
		uint32_t from = (uint32_t)(offset % BLOCK);
		uint32_t to = end - offset < BLOCK - from ? from + (uint32_t)(end - offset) : BLOCK;
		struct block *block = block_find(file, offset / BLOCK);
		struct range gap = {from, to};
		if (!block || ranges_gap(&block->valid, from, to, &gap)) {
			*at = offset - from + gap.from;
			return true;
		}
		offset += to - from;
	}
	return false;
}

static int pin_all(struct file *file, uint64_t offset, uint32_t size, struct block **pinned, struct iovec *parts)
{
	int count = 0;
	for (uint64_t end = offset + size; offset < end; count++) {
		uint32_t from = (uint32_t)(offset % BLOCK);
		uint32_t to = end - offset < BLOCK - from ? from + (uint32_t)(end - offset) : BLOCK;
		struct block *block = block_find(file, offset / BLOCK);
		block->pins++;
		block_touch(block);
		pinned[count] = block;
		parts[count] = (struct iovec){block->memory + from, to - from};
		offset += to - from;
	}
	return count;
}

/* How much to read from the target at once: what is asked for, and a whole stripe's worth for who reads on and on. */
static uint64_t window(const struct file *file, uint64_t at, uint64_t end)
{
	bool onwards = file->last_read && at >= file->last_read && at - file->last_read < 2 * BLOCK;
	uint64_t upto = (end + BLOCK - 1) / BLOCK * BLOCK, stripe = (at / S.stripe + 1) * S.stripe;
	if (onwards || at == 0)
		upto = at / BLOCK * BLOCK + MAX_PAYLOAD;
	if (S.count > 1 && upto > stripe)
		upto = stripe > end ? stripe : (end + BLOCK - 1) / BLOCK * BLOCK;
	return upto;
}

static int read_target(int fd, char *into, uint64_t offset, uint32_t size, uint64_t *known)
{
	uint32_t have = 0;
	struct stat now;
	while (have < size) {
		ssize_t got = pread(fd, into + have, size - have, (off_t)(offset + have));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return errno;
		if (got == 0)
			break;
		have += (uint32_t)got;
	}
	memset(into + have, 0, size - have);
	*known = fstat(fd, &now) ? 0 : (uint64_t)now.st_size;
	return 0;
}

/* What it has not yet, and what no writer is just putting there. */
static void copy_gap(struct block *block, const char *from)
{
	struct range gap, part;
	for (uint32_t at = 0; ranges_gap(&block->valid, at, block->capacity, &gap); at = gap.to)
		for (uint32_t low = gap.from; ranges_gap(&block->coming, low, gap.to, &part); low = part.to) {
			memcpy(block->memory + part.from, from + part.from, part.to - part.from);
			ranges_add(&block->valid, part.from, part.to);
		}
}

/* Reads from below that are under way. With a store, what a writer put into a block meanwhile may be evicted again at once. */
struct fill {
	struct fill *next;
	const struct file *file;
	uint64_t from, to;
	bool stale;
};
static struct fill *fills;

void file_evicting(const struct block *block)
{
	uint64_t at = block->number * BLOCK;
	for (struct fill *fill = fills; fill; fill = fill->next)
		if (fill->file == block->file && at < fill->to && at + BLOCK > fill->from)
			fill->stale = true;
}

static void fill_ends(const struct fill *ended)
{
	struct fill **at = &fills;
	while (*at != ended)
		at = &(*at)->next;
	*at = ended->next;
}

/* Stops when something was drained or evicted meanwhile: it may have been written after `bytes` were read. */
static void copy_gaps(const struct fill *fill, struct file *file, const char *bytes, uint64_t drains)
{
	memory_gate(true);
	for (uint64_t at = fill->from; at < fill->to && !fill->stale && file->drains == drains; at += BLOCK) {
		uint64_t beyond = file->known > at ? file->known - at : 0; /* a small file needs a small block */
		struct block *block = block_find(file, at / BLOCK);
		block = block_pin(file, at / BLOCK, !block && beyond <= SMALL ? SMALL : BLOCK);
		if (!fill->stale && file->drains == drains)
			copy_gap(block, bytes + (at - fill->from));
		block_unpin(block);
	}
	memory_gate(false);
}

static int fill(struct file *file, uint64_t from, uint64_t to)
{
	static _Thread_local char *buffer;
	uint32_t size = (uint32_t)(to - from);
	int error;
	uint64_t drains, known;
	if (!buffer)
		buffer = must_alloc(2 * MAX_PAYLOAD);
	struct fill this = {fills, file, from, to, false};
	fills = &this;
	do {
		this.stale = false;
		if (!file_open(file, false)) {
			fill_ends(&this);
			return ESTALE;
		}
		int fd = file->fd;
		drains = file->drains;
		known = 0;
		error = 0;
		file->fills++;
		pthread_mutex_unlock(&S.lock);
		error = read_target(fd, buffer, from, size, &known);
		pthread_mutex_lock(&S.lock);
		if (!error && has_store() && file->stored_count)
			error = store_read(file, from, size, buffer);
		file->fills--;
		file_use_end(file);
	} while (file->drains != drains);
	if (!error) {
		file->known = known;
		file->fills++;
		copy_gaps(&this, file, buffer, drains);
		file->fills--;
	}
	fill_ends(&this);
	if (error)
		return error;
	pthread_cond_broadcast(&S.changed);
	return 0;
}

int file_read(struct file *file, uint64_t offset, uint32_t size, struct block **pinned, struct iovec *parts, int *count)
{
	uint64_t at;
	while (first_gap(file, offset, size, &at)) {
		struct block *block = block_find(file, at / BLOCK);
		uint32_t low = (uint32_t)(at % BLOCK);
		if (block && ranges_cover(&block->coming, low, low + 1)) { /* a writer is at it */
			pthread_cond_wait(&S.changed, &S.lock);
			continue;
		}
		int error = fill(file, at / BLOCK * BLOCK, window(file, at, offset + size));
		if (error)
			return error;
	}
	*count = pin_all(file, offset, size, pinned, parts);
	file->last_read = offset + size;
	return 0;
}

void file_read_over(struct file *file, uint64_t offset, uint32_t size, char *into)
{
	uint64_t end = offset + size;
	for (struct block *block = block_from(file, offset / BLOCK); block; block = block_from(file, block->number + 1)) {
		uint64_t start = block->number * BLOCK;
		if (start >= end)
			return;
		for (uint32_t i = 0; i < block->valid.count; i++) {
			struct range part = ranges_all(&block->valid)[i];
			uint64_t from = start + part.from > offset ? start + part.from : offset;
			uint64_t to = start + part.to < end ? start + part.to : end;
			if (from < to)
				memcpy(into + (from - offset), block->memory + (from - start), to - from);
		}
	}
}

int file_verify(struct file *file)
{
	char *copy = must_alloc(BLOCK);
	int error = 0;
	uint64_t changes = file->changes;
	/* Until a writer comes: what it writes is verified in its turn. */
	for (struct block *block = block_from(file, 0); block && !error && file->changes == changes;) {
		uint64_t number = block->number;
		block->pins++;
		for (uint32_t i = 0; i < block->valid.count && !error && file->changes == changes; i++) {
			struct range part = ranges_all(&block->valid)[i];
			uint64_t offset = number * BLOCK + part.from, known;
			int fd = file->fd;
			pthread_mutex_unlock(&S.lock);
			error = read_target(fd, copy, offset, part.to - part.from, &known);
			if (!error && memcmp(copy, block->memory + part.from, part.to - part.from))
				error = EILSEQ;
			pthread_mutex_lock(&S.lock);
			if (file->changes != changes)
				error = 0;
		}
		block_unpin(block);
		block = block_from(file, number + 1);
	}
	free(copy);
	return error;
}
