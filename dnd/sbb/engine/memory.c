/*
 * The server's memory: one arena of slots of 64 KiB, touched once at the start, so that no page fault costs time later. A block
 * takes a slot, or a sixteenth of one while it holds nothing but the first 4 KiB: that is what small files need.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "server.h"

#define PIECES (BLOCK / SMALL)
#define TOUCH (16u << 20) /* bytes that are touched at a time */

static char *arena;
static uint32_t slots, free_count, partial_count;
static uint32_t *free_slots, *partial; /* stacks */
static uint16_t *pieces;               /* of a slot that is cut: which are used */
static bool *is_cut, *in_partial;

struct list {
	struct block *oldest, *newest;
};
static struct list clean, dirty; /* by last use */

static bool gate_taken;

static struct list *list_of(const struct block *block)
{
	return block->dirty.count || block->writing.count ? &dirty : &clean;
}

static void unlink_from(struct block *block, struct list *list)
{
	if (list->oldest == block)
		list->oldest = block->newer;
	if (list->newest == block)
		list->newest = block->older;
	if (block->older)
		block->older->newer = block->newer;
	if (block->newer)
		block->newer->older = block->older;
	block->older = block->newer = NULL;
}

static void unlink_block(struct block *block)
{
	if (clean.oldest == block || clean.newest == block)
		unlink_from(block, &clean);
	else
		unlink_from(block, &dirty); /* a middle one: the ends of a list do not matter */
}

void block_touch(struct block *block)
{
	struct list *list = list_of(block);
	if (list->newest == block)
		return;
	unlink_block(block);
	block->older = list->newest;
	if (list->newest)
		list->newest->newer = block;
	else
		list->oldest = block;
	list->newest = block;
}

static void *touch_all(void *unused)
{
	(void)unused;
	/* Zeroing page by page in the kernel; nobody's bytes are changed by it. Meanwhile no other thread can be started: so
	 * a piece at a time. */
	for (size_t at = 0, all = (size_t)slots * BLOCK, piece; at < all; at += piece) {
		piece = all - at < TOUCH ? all - at : TOUCH;
		if (madvise(arena + at, piece, MADV_POPULATE_WRITE)) {
			if (errno != EINVAL)
				say("memory: %s", strerror(errno));
			break;
		}
	}
	return NULL;
}

void memory_start(void)
{
	pthread_t thread;
	slots = (uint32_t)(S.memory / BLOCK);
	if (slots < 256)
		die("memory=%llu is too little: 16 MiB or more", (unsigned long long)S.memory);
	arena = mmap(NULL, (size_t)slots * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (arena == MAP_FAILED)
		die("memory=%llu: %s", (unsigned long long)S.memory, strerror(errno));
	madvise(arena, (size_t)slots * BLOCK, MADV_HUGEPAGE);
	madvise(arena, (size_t)slots * BLOCK, MADV_DONTDUMP);
	free_slots = must_alloc(slots * sizeof *free_slots);
	partial = must_alloc(slots * sizeof *partial);
	pieces = must_alloc(slots * sizeof *pieces);
	is_cut = must_alloc(slots);
	in_partial = must_alloc(slots);
	while (free_count < slots) {
		free_slots[free_count] = slots - 1 - free_count;
		free_count++;
	}
	if (pthread_create(&thread, NULL, touch_all, NULL) == 0)
		pthread_detach(thread);
}

uint64_t memory_used(void)
{
	return (uint64_t)(slots - free_count) * BLOCK;
}

static char *take_piece(void)
{
	while (partial_count) {
		uint32_t slot = partial[partial_count - 1];
		if (is_cut[slot] && pieces[slot] != 0xFFFF) {
			int piece = __builtin_ctz(~(unsigned)pieces[slot]);
			pieces[slot] |= (uint16_t)(1u << piece);
			return arena + (size_t)slot * BLOCK + (size_t)piece * SMALL;
		}
		in_partial[slot] = false;
		partial_count--;
	}
	if (!free_count)
		return NULL;
	uint32_t slot = free_slots[--free_count];
	is_cut[slot] = true;
	pieces[slot] = 1;
	if (!in_partial[slot]) {
		in_partial[slot] = true;
		partial[partial_count++] = slot;
	}
	return arena + (size_t)slot * BLOCK;
}

static char *take(uint32_t capacity)
{
	if (capacity == SMALL)
		return take_piece();
	return free_count ? arena + (size_t)free_slots[--free_count] * BLOCK : NULL;
}

static void give_back(char *memory, uint32_t capacity)
{
	size_t at = (size_t)(memory - arena);
	uint32_t slot = (uint32_t)(at / BLOCK);
	if (capacity == SMALL) {
		pieces[slot] &= (uint16_t)~(1u << (at % BLOCK / SMALL));
		if (pieces[slot]) {
			if (!in_partial[slot]) {
				in_partial[slot] = true;
				partial[partial_count++] = slot;
			}
			return;
		}
		is_cut[slot] = false;
	}
	free_slots[free_count++] = slot;
}

static bool evict_from(struct list *list)
{
	for (struct block *block = list->oldest; block; block = block->newer)
		if (!block->pins && !block->growing && !block->dirty.count && !block->writing.count) {
			file_evicting(block);
			block_free(block);
			return true;
		}
	return false;
}

/* Memory for a block; waits until there is some. */
static char *wait_for(uint32_t capacity)
{
	char *memory;
	while (!(memory = take(capacity)) && !evict_from(&clean) && !(memory = take(capacity))) {
		S.waiting++;
		pthread_cond_broadcast(&S.changed); /* the drain hurries while somebody waits */
		pthread_cond_wait(&S.changed, &S.lock);
		S.waiting--;
	}
	return memory ? memory : wait_for(capacity);
}

static uint32_t chunk_at(const struct file *file, uint64_t number)
{
	uint32_t low = 0, high = file->chunk_count;
	while (low < high) {
		uint32_t middle = (low + high) / 2;
		if (file->chunks[middle]->number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct block *block_find(struct file *file, uint64_t number)
{
	uint32_t at = chunk_at(file, number / CHUNK);
	if (at == file->chunk_count || file->chunks[at]->number != number / CHUNK)
		return NULL;
	return file->chunks[at]->blocks[number % CHUNK];
}

struct block *block_from(struct file *file, uint64_t number)
{
	for (uint32_t at = chunk_at(file, number / CHUNK); at < file->chunk_count; at++) {
		struct chunk *chunk = file->chunks[at];
		uint32_t first = chunk->number == number / CHUNK ? (uint32_t)(number % CHUNK) : 0;
		for (uint32_t i = first; i < CHUNK; i++)
			if (chunk->blocks[i])
				return chunk->blocks[i];
	}
	return NULL;
}

static void index_block(struct file *file, struct block *block)
{
	uint64_t number = block->number / CHUNK;
	uint32_t at = chunk_at(file, number);
	if (at == file->chunk_count || file->chunks[at]->number != number) {
		if (file->chunk_count == file->chunk_room) {
			file->chunk_room = file->chunk_room ? file->chunk_room * 2 : 1;
			file->chunks = must_realloc(file->chunks, file->chunk_room * sizeof *file->chunks);
		}
		memmove(file->chunks + at + 1, file->chunks + at, (file->chunk_count - at) * sizeof *file->chunks);
		file->chunks[at] = must_alloc(sizeof(struct chunk));
		file->chunks[at]->number = number;
		file->chunk_count++;
	}
	file->chunks[at]->blocks[block->number % CHUNK] = block;
	file->chunks[at]->used++;
}

void block_free(struct block *block)
{
	struct file *file = block->file;
	uint32_t at = chunk_at(file, block->number / CHUNK);
	file->chunks[at]->blocks[block->number % CHUNK] = NULL;
	if (--file->chunks[at]->used == 0) {
		free(file->chunks[at]);
		file->chunk_count--;
		memmove(file->chunks + at, file->chunks + at + 1, (file->chunk_count - at) * sizeof *file->chunks);
	}
	unlink_block(block);
	give_back(block->memory, block->capacity);
	ranges_clear(&block->coming);
	ranges_clear(&block->valid);
	ranges_clear(&block->dirty);
	ranges_clear(&block->writing);
	free(block);
}

/* Moves a small block into a slot of its own. False: it had to wait, look again. */
static bool grow(struct block *block)
{
	if (block->pins || block->growing) {
		pthread_cond_wait(&S.changed, &S.lock);
		return false;
	}
	block->growing = true; /* keeps it from being evicted while this waits for memory */
	char *memory = wait_for(BLOCK);
	block->growing = false;
	if (block->pins) { /* somebody came meanwhile */
		give_back(memory, BLOCK);
		return false;
	}
	memcpy(memory, block->memory, SMALL);
	give_back(block->memory, SMALL);
	block->memory = memory;
	block->capacity = BLOCK;
	pthread_cond_broadcast(&S.changed);
	return true;
}

struct block *block_pin(struct file *file, uint64_t number, uint32_t need)
{
	for (;;) {
		struct block *block = block_find(file, number);
		if (block && block->capacity >= need) {
			block->pins++;
			block_touch(block);
			return block;
		}
		if (block) {
			grow(block);
			continue;
		}
		uint32_t capacity = need > SMALL ? BLOCK : SMALL;
		char *memory = wait_for(capacity);
		if (block_find(file, number)) { /* it came while this waited */
			give_back(memory, capacity);
			continue;
		}
		block = must_alloc(sizeof *block);
		block->file = file;
		block->number = number;
		block->memory = memory;
		block->capacity = capacity;
		index_block(file, block);
		block_touch(block);
	}
}

void block_unpin(struct block *block)
{
	if (--block->pins == 0)
		pthread_cond_broadcast(&S.changed);
}

void memory_gate(bool enter)
{
	if (enter) {
		while (gate_taken)
			pthread_cond_wait(&S.changed, &S.lock);
		gate_taken = true;
	} else {
		gate_taken = false;
		pthread_cond_broadcast(&S.changed);
	}
}
