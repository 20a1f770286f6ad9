/* The files that the server knows something of, and their counterparts on the targets. */
#include "server.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void files_start(void)
{
	S.table_size = 1024;
	S.table = must_alloc(S.table_size * sizeof *S.table);
	S.open_limit = (uint32_t)(raise_file_limit() / 2);
	for (uint32_t i = 0; i < S.target_count; i++)
		S.targets[i].fd = -1;
}

static struct file **slot_of(uint32_t target, uint64_t ino)
{
	return &S.table[((ino + target) * 0x9E3779B97F4A7C15ull >> 40) & (S.table_size - 1)];
}

static void widen(void)
{
	struct file **old = S.table;
	uint32_t size = S.table_size;
	S.table_size *= 4;
	S.table = must_alloc(S.table_size * sizeof *S.table);
	for (uint32_t i = 0; i < size; i++)
		for (struct file *file = old[i], *next; file; file = next) {
			struct file **slot = slot_of(file->target, file->ino);
			next = file->next;
			file->next = *slot;
			*slot = file;
		}
	free(old);
}

struct file *file_find(uint32_t target, uint64_t ino)
{
	struct file *file = *slot_of(target, ino);
	while (file && (file->ino != ino || file->target != target))
		file = file->next;
	return file;
}

struct file *file_get(uint32_t target, uint64_t ino)
{
	struct file *file = file_find(target, ino);
	if (file)
		return file;
	if (S.file_count > 2 * S.table_size)
		widen();
	struct file **slot = slot_of(target, ino);
	file = must_alloc(sizeof *file);
	file->target = target;
	file->ino = ino;
	file->path = must_copy("");
	file->fd = file->own_fd = -1;
	file->next = *slot;
	*slot = file;
	S.file_count++;
	return file;
}

static void set_path(struct file *file, const char *path)
{
	if (strcmp(file->path, path) == 0)
		return;
	char *old = file->path;
	file->path = must_copy(path);
	record_renamed(file, old);
	free(old);
	if (file->logged)
		store_path(file);
}

struct file *file_born(uint32_t target, uint64_t ino, int64_t born)
{
	struct file *file = file_get(target, ino);
	while (born && file->born && file->born != born) {
		file_drop(file);
		file = file_get(target, ino);
	}
	if (born)
		file->born = born;
	return file;
}

void file_path(uint32_t target, uint64_t ino, const char *path, int64_t born)
{
	struct file *file = file_born(target, ino, born);
	file->users++;
	file->retry_at = 0;
	set_path(file, path);
	file_put(file);
}

static void path_below(struct file *file, size_t old_length, const char *new)
{
	char *path = must_alloc(strlen(new) + strlen(file->path + old_length) + 1);
	strcpy(path, new);
	strcat(path, file->path + old_length);
	set_path(file, path);
	free(path);
}

void file_renamed(uint32_t target, uint64_t ino, const char *old, const char *new)
{
	size_t length = strlen(old);
	uint32_t count = 0;
	struct file **below;
	if (ino) {
		struct file *file = file_find(target, ino);
		if (file) {
			file->users++;
			set_path(file, new);
			file_put(file);
		}
		return;
	}
	below = must_alloc(S.file_count * sizeof *below); /* a directory: first all, for a path's change may release the lock */
	for (uint32_t i = 0; i < S.table_size; i++)
		for (struct file *file = S.table[i]; file; file = file->next)
			if (file->target == target && strncmp(file->path, old, length) == 0 && file->path[length] == '/') {
				file->users++;
				below[count++] = file;
			}
	for (uint32_t i = 0; i < count; i++) {
		path_below(below[i], length, new);
		file_put(below[i]);
	}
	free(below);
}

void file_dirtied(struct file *file, uint64_t bytes, uint64_t end, int64_t mtime)
{
	if (!file->buffered) {
		file->buffered = true;
		file->since = monotonic_ns();
		file->before = S.dirty_last;
		file->after = NULL;
		*(S.dirty_last ? &S.dirty_last->after : &S.dirty_first) = file;
		S.dirty_last = file;
		S.dirty_files++;
		record_dirty(file, true);
	} else if (!file->bytes && bytes) {
		file->since = monotonic_ns();
	}
	if (end > file->end)
		file->end = end;
	if (mtime)
		file->mtime = mtime;
	file->bytes += bytes;
	S.dirty_bytes += bytes;
	file->changes++;
}

void file_drained(struct file *file, uint64_t changes)
{
	file->safe = changes;
	free(file->error);
	file->error = NULL;
	file->failures = 0;
}

void file_clean(struct file *file)
{
	if (!file->buffered)
		return;
	*(file->before ? &file->before->after : &S.dirty_first) = file->after;
	*(file->after ? &file->after->before : &S.dirty_last) = file->before;
	file->before = file->after = NULL;
	file->buffered = false;
	file->end = 0;
	file->version = (uint64_t)file->mtime;
	file->cleaned = file->mtime;
	file->cleaned_at = monotonic_ns();
	file->mtime = 0;
	S.dirty_bytes -= file->bytes;
	file->bytes = 0;
	S.dirty_files--;
	file_drained(file, file->changes);
	record_dirty(file, false);
	pthread_cond_broadcast(&S.changed);
}

static bool busy(const struct file *file)
{
	if (file->draining || file->fills || file->fd_users)
		return true;
	for (uint32_t c = 0; c < file->chunk_count; c++)
		for (uint32_t i = 0; i < CHUNK; i++) {
			const struct block *block = file->chunks[c]->blocks[i];
			if (block && (block->pins || block->growing))
				return true;
		}
	return false;
}

static void cut_block(struct file *file, struct block *block, uint32_t keep, bool clean_only)
{
	if (!clean_only) {
		uint64_t gone = ranges_remove(&block->dirty, keep, BLOCK);
		file->bytes -= gone;
		S.dirty_bytes -= gone;
		ranges_remove(&block->valid, keep, BLOCK);
	} else if (!block->dirty.count && !has_store()) {
		ranges_remove(&block->valid, keep, BLOCK);
	} else if (!has_store()) {
		struct range gap;
		uint32_t from = keep;
		while (ranges_gap(&block->dirty, from, BLOCK, &gap)) {
			ranges_remove(&block->valid, gap.from, gap.to);
			from = gap.to;
		}
	} else {
		ranges_remove(&block->valid, keep, BLOCK); /* the store has what is dirty */
	}
	if (!block->valid.count)
		block_free(block);
	else
		block_touch(block);
}

/* Forgets what lies at `size` and beyond; clean_only: only copies of what the target has, or had. */
int file_cut(struct file *file, uint64_t size, bool clean_only)
{
	int error = 0;
	file->cuts_due++;
	while (busy(file))
		pthread_cond_wait(&S.changed, &S.lock);
	file->cuts_due--;
	file->cutting++;
	for (struct block *block = block_from(file, size / BLOCK), *next; block; block = next) {
		uint64_t number = block->number;
		uint32_t keep = size > number * BLOCK ? (uint32_t)(size - number * BLOCK) : 0;
		cut_block(file, block, keep, clean_only);
		next = block_from(file, number + 1);
	}
	if (has_store() && !clean_only)
		error = store_cut(file, size);
	if (file->end > size && !clean_only && !error)
		file->end = size;
	if (file->known > size)
		file->known = size;
	file->changes++;
	file->drains++;
	file->cutting--;
	pthread_cond_broadcast(&S.changed);
	return error;
}

static void release(struct file *file)
{
	file_clean(file); /* a writer that waited while it was dropped */
	for (struct block *block; (block = block_from(file, 0)); )
		block_free(block);
	if (file->fd >= 0) {
		close(file->fd);
		S.open_files--;
	}
	if (file->own_fd >= 0)
		close(file->own_fd);
	free(file->path);
	free(file->error);
	free(file->openers);
	free(file->places);
	free(file->chunks);
	free(file->stored);
	free(file);
}

void file_drop(struct file *file)
{
	file->users++;
	file->orphan = true;
	file->cutting++; /* nor does a drain begin afterwards */
	file_cut(file, 0, false);
	if (has_store())
		store_forget(file);
	if (!file->dropped) { /* by another thread that came while this one waited */
		file_clean(file);
		struct file **slot = slot_of(file->target, file->ino);
		while (*slot != file)
			slot = &(*slot)->next;
		*slot = file->next;
		S.file_count--;
		file->dropped = true;
		file->opener_count = 0; /* they end without looking here */
	}
	file_put(file);
}

void file_changed(struct file *file)
{
	file->cleaned = 0;
	if (file->fd < 0 || file->fd_users || file->draining || file->held)
		return;
	close(file->fd); /* opened again, it shows what the target has now */
	file->fd = -1;
	file->writable = false;
	S.open_files--;
}

void file_put(struct file *file)
{
	if (--file->users == 0 && file->dropped)
		release(file);
}

void file_dirty_again(struct file *file)
{
	if (has_store())
		return; /* what was stored still is */
	for (struct block *block = block_from(file, 0); block; block = block_from(file, block->number + 1)) {
		for (uint32_t i = 0; i < block->valid.count; i++) {
			struct range part = ranges_all(&block->valid)[i];
			uint64_t fresh = ranges_add(&block->dirty, part.from, part.to);
			file->bytes += fresh;
			S.dirty_bytes += fresh;
		}
		block_touch(block);
	}
}

void file_failed(struct file *file, const char *what, int error)
{
	char text[256];
	snprintf(text, sizeof text, "%s: %s", what, strerror(error));
	if (++file->failures == 2) /* the first time it may just have lost its name */
		say_seldom("%s/%s: %s; its bytes stay here, this is tried again", S.targets[file->target].path, file->path,
			   text);
	free(file->error);
	file->error = must_copy(text);
	/* A file that is nowhere is looked for in all of the target: that is done less and less often. */
	uint32_t patience = error != ENOENT ? 1 : 1u << (file->failures < 7 ? file->failures - 1 : 6);
	file->retry_at = monotonic_ns() + patience * 2000000000ll;
}

static bool is_it(int fd, uint64_t ino, int64_t born)
{
	struct statx now;
	if (statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &now) || now.stx_ino != ino)
		return false;
	int64_t birth = now.stx_mask & STATX_BTIME ? now.stx_btime.tv_sec * 1000000000ll + now.stx_btime.tv_nsec : 0;
	return !birth || !born || birth == born;
}

/* Opens for writing also what its owner may not write: a program made it read-only after it had it open. */
static int open_against_mode(int place, bool writing)
{
	char self[64];
	struct stat now;
	snprintf(self, sizeof self, "/proc/self/fd/%d", place);
	int fd = open(self, (writing ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (fd >= 0 || errno != EACCES || fstat(place, &now) || now.st_uid != geteuid())
		return fd;
	if (chmod(self, (now.st_mode & 07777) | S_IRUSR | S_IWUSR))
		return -1;
	fd = open(self, (writing ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	int error = errno;
	if (fchmod(fd >= 0 ? fd : place, now.st_mode & 07777) && fd < 0)
		chmod(self, now.st_mode & 07777);
	errno = error;
	return fd;
}

/* Looks through a whole target for a file that was renamed without our knowing; a descriptor of its place or -1. */
static int search(int directory, uint64_t ino, int64_t born, int depth)
{
	int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), found = -1;
	DIR *list = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *entry;
	if (!list)
		return -1;
	while (found < 0 && (entry = readdir(list))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (entry->d_ino == ino || entry->d_type == DT_UNKNOWN)
			found = openat(dirfd(list), entry->d_name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (found >= 0 && !is_it(found, ino, born)) {
			close(found);
			found = -1;
		}
		if (found < 0 && (entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN) && depth < 64) {
			int below = openat(dirfd(list), entry->d_name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			if (below >= 0) {
				found = search(below, ino, born, depth + 1);
				close(below);
			}
		}
	}
	closedir(list);
	return found;
}

static int target_directory(uint32_t target)
{
	if (S.targets[target].fd < 0) /* it may have come into being after this server did */
		S.targets[target].fd = open(S.targets[target].path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return S.targets[target].fd;
}

/* Too many descriptors: closes one that nobody needs now. */
static void close_another(void)
{
	static uint32_t hand;
	for (uint32_t i = 0; i < S.table_size; i++) {
		hand = (hand + 1) & (S.table_size - 1);
		for (struct file *file = S.table[hand]; file; file = file->next)
			if (file->fd >= 0 && !file->fd_users && !file->draining && !file->held) {
				close(file->fd);
				file->fd = -1;
				S.open_files--;
				return;
			}
	}
}

bool file_open(struct file *file, bool writing)
{
	file->fd_users++;
	if (file->fd >= 0 && (file->writable || !writing))
		return true;
	if (S.open_files >= S.open_limit)
		close_another();
	int directory = target_directory(file->target), error = errno;
	if (directory < 0) {
		file_failed(file, "the target directory", error);
		file->fd_users--;
		return false;
	}
	char *path = must_copy(file->path);
	uint64_t ino = file->ino;
	int64_t born = file->born;
	int held = file->held ? file->fd : -1;
	bool again = file->error && !file->orphan; /* else its last name may just be going, which this hears of in a moment */
	pthread_mutex_unlock(&S.lock);
	int place = openat(directory, path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (place >= 0 && !is_it(place, ino, born)) {
		close(place);
		place = -1;
	}
	if (place < 0 && held >= 0) /* unlinked, or renamed: it is still there */
		place = fcntl(held, F_DUPFD_CLOEXEC, 0);
	if (place < 0 && again)
		place = search(directory, ino, born, 0);
	if (place < 0)
		errno = ENOENT;
	int fd = place < 0 ? -1 : open_against_mode(place, writing);
	error = errno;
	if (place >= 0)
		close(place);
	free(path);
	pthread_mutex_lock(&S.lock);
	if (fd < 0) {
		file_failed(file, writing ? "cannot be opened for writing" : "cannot be opened", error);
		file->fd_users--;
		pthread_cond_broadcast(&S.changed);
		return false;
	}
	if (file->fd >= 0 && file->fd_users > 1) { /* another thread uses the one it has */
		if (writing && !file->writable) {
			dup3(fd, file->fd, O_CLOEXEC);
			file->writable = true;
		}
		close(fd);
		return true;
	}
	if (file->fd >= 0)
		close(file->fd);
	else
		S.open_files++;
	file->fd = fd;
	file->writable = writing;
	return true;
}

void file_use_end(struct file *file)
{
	if (--file->fd_users == 0 && file->writable && !file->buffered && !file->held) {
		close(file->fd); /* a program that is open for writing cannot be run */
		file->fd = -1;
		file->writable = false;
		S.open_files--;
	}
	pthread_cond_broadcast(&S.changed);
}
