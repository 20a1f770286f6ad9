/*
 * What the parts of sbbd share. One lock, S.lock, guards all of it; bytes move without the lock, between memory that is pinned
 * and a socket or file. S.changed is broadcast when somebody may go on: memory came free, a drain ended, a cache answered.
 */
#ifndef SBB_SERVER_H
#define SBB_SERVER_H

#include <pthread.h>

#include "common.h"
#include "protocol.h"
#include "ranges.h"
#include "transport.h"

#define BLOCK 65536u /* bytes of file that one block stands for */
#define SMALL 4096u  /* memory of a block that has only its beginning */
#define CHUNK 256u   /* blocks in one piece of a file's index */

struct block {
	struct file *file;
	uint64_t number; /* of the block in its file */
	char *memory;
	uint32_t capacity; /* SMALL or BLOCK */
	uint32_t pins;     /* somebody reads or writes the memory: it stays where it is */
	bool growing;      /* somebody gets more memory for it */
	uint32_t receiving; /* writes whose bytes are just coming into the memory */
	struct ranges coming; /* where */
	struct ranges valid;
	struct ranges dirty;   /* valid, and not on the target (a server without a store) */
	struct ranges writing; /* on its way there */
	struct block *older, *newer;
};

struct chunk {
	uint64_t number;
	uint32_t used;
	struct block *blocks[CHUNK];
};

struct stored { /* bytes on the store that are not on the target */
	uint64_t from, to;
	uint64_t sequence;  /* of the write that put them there */
	uint64_t position;  /* in its log segment; unused for a file of its own */
	uint32_t segment;   /* 0: in the file's own file */
};

struct file {
	struct file *next;
	uint32_t target;
	uint64_t ino;
	int64_t born; /* birth time of the target's file, ns; 0: not known. With ino it is what the file is known by */
	char *path;   /* below the target; may be out of date when the file was renamed behind our back */
	int fd;       /* of the target's file, or -1 */
	bool writable;
	uint32_t fd_users;
	uint32_t fills; /* reads from the target that are under way */
	uint64_t known; /* size of the target's file when last seen */

	struct chunk **chunks; /* sorted */
	uint32_t chunk_count, chunk_room;

	bool buffered;   /* has what the target has not; then it is in the list of dirty files */
	uint64_t end;    /* where the buffered bytes end */
	int64_t mtime;   /* ns, while buffered */
	uint64_t bytes;  /* dirty and being written */
	uint64_t changes; /* counts writes and truncates, their beginnings too */
	uint32_t writers; /* writes whose bytes are just coming into the blocks */
	int64_t since;   /* monotonic: when the oldest dirty byte came */
	bool draining;   /* a drain thread has it */
	uint32_t cutting; /* truncates that are being noted: no drain begins, which would write what they take away */
	uint32_t cuts_due; /* truncates that wait for reads, writes and drains to end: none begins, unless writers need room */
	bool timing;     /* its time of modification is being set on the target */
	uint64_t wanted; /* somebody waits until the target has all up to this change: it is drained at once */
	uint64_t safe;   /* the target has all up to this one */
	bool recorded;   /* in the list of what would be lost */
	int64_t retry_at;
	char *error;
	uint32_t failures;
	struct file *before, *after; /* in the list of dirty files */

	struct stored *stored; /* sorted, disjoint */
	uint32_t stored_count, stored_room;
	uint64_t drains; /* counts what reached the target: who read from there before reads again */
	uint64_t mark;   /* all stored up to it is being drained */
	uint32_t logged; /* this log segment and later ones have all that is recorded of it; 0: nothing is */
	int own_fd;      /* its own file on the store, or -1 */
	uint32_t own_users;
	bool settling;   /* what was drained is being taken out of the store: writers wait */

	uint32_t users;  /* threads that work with it and may wait meanwhile */
	bool dropped;    /* freed by the last of them */
	bool held;       /* its descriptor stays open */
	bool orphan;     /* unlinked, perhaps still open */
	int64_t orphaned;
	struct session **openers;
	uint32_t opener_count, opener_room;
	uint64_t append_end;
	struct handed {
		uint64_t mark, offset;
	} *places; /* the last ones that were handed out, a ring: who asks again gets the same */
	uint32_t place_count;
	uint64_t version; /* of the target's file that the clean blocks are of */
	int64_t cleaned;  /* time of modification that the last drain set on the target, ns; 0: it may have another one by now */
	int64_t cleaned_at; /* monotonic */
	uint64_t last_read; /* where the last read ended */
};

struct client {
	struct client *next;
	uint64_t id;
	struct link *callback; /* NULL: none now */
	uint64_t callback_turn;
	pthread_mutex_t send;
	uint32_t connections;
};

enum state { RUNNING, DRAINING, DRAINED };

struct target {
	char *path;
	int fd;
};

struct server {
	/* configuration */
	char *sid, *listen, *unix_path, *control, *store;
	uint32_t index, count;
	uint64_t memory, store_size, stripe, drain_rate;
	int64_t drain_delay; /* ns */
	bool sync_target, allow_root;
	struct target targets[MAX_TARGETS];
	uint32_t target_count;
	unsigned char key[KEY_SIZE];
	int port;
	uint64_t epoch;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum state state;
	bool stopping;
	struct client *clients;
	uint32_t client_count;
	uint64_t alone; /* id of the client that was told that it is the only one; 0: none. Of server 0 only */
	uint32_t joining; /* clients that were let in and are not in the list yet */
	bool reborn; /* there was a server before this one: clients of that time may be about to come back */

	struct file **table;
	uint32_t table_size, file_count, open_files, open_limit;
	struct file *dirty_first, *dirty_last;
	uint32_t dirty_files;
	uint64_t dirty_bytes;
	uint64_t drained_bytes; /* since the start */
	double measured_rate;
	uint32_t waiting; /* for memory or store */
	char **lost;
	uint32_t lost_count;
};

extern struct server S;

static inline bool has_store(void)
{
	return S.store != NULL;
}

static inline bool file_is_wanted(const struct file *file)
{
	return file->wanted > file->safe;
}

/* memory.c: blocks. All with the lock held. */
void memory_start(void);
uint64_t memory_used(void);
/* The block of a number with room up to `need`, pinned; waits for memory. Only between memory_gate(true) and (false). */
struct block *block_pin(struct file *file, uint64_t number, uint32_t need);
struct block *block_find(struct file *file, uint64_t number);
struct block *block_from(struct file *file, uint64_t number); /* the first that is not before it */
void block_unpin(struct block *block);
void block_free(struct block *block);
void block_touch(struct block *block); /* used just now; also after its dirty set changed */
void memory_gate(bool enter);          /* one thread at a time collects blocks, so that none waits for another's */

/* files.c */
void files_start(void);
struct file *file_find(uint32_t target, uint64_t ino);
struct file *file_get(uint32_t target, uint64_t ino);
struct file *file_born(uint32_t target, uint64_t ino, int64_t born); /* drops another one that had this number before */
void file_path(uint32_t target, uint64_t ino, const char *path, int64_t born);
void file_renamed(uint32_t target, uint64_t ino, const char *old, const char *new);
void file_dirtied(struct file *file, uint64_t bytes, uint64_t end, int64_t mtime);
void file_drained(struct file *file, uint64_t changes); /* the target has all that there was at this count of changes */
void file_clean(struct file *file); /* the target has all of it */
int file_cut(struct file *file, uint64_t size, bool clean_only); /* 0 or an errno of the store */
void file_drop(struct file *file);
void file_changed(struct file *file); /* by others, on the target: what a network file system keeps of it here is old */
void file_put(struct file *file); /* the end of what file->users++ began */
void file_dirty_again(struct file *file);
bool file_open(struct file *file, bool writing); /* releases the lock meanwhile; false: file->error says why */
void file_use_end(struct file *file);
void file_failed(struct file *file, const char *what, int error);

/* read.c: bytes for a READ, filled from below where need be, as vectors into pinned blocks; 0 or an errno. */
#define MAX_PARTS (MAX_PAYLOAD / BLOCK + 2)
int file_read(struct file *file, uint64_t offset, uint32_t size, struct block **pinned, struct iovec *parts, int *count);
void file_read_over(struct file *file, uint64_t offset, uint32_t size, char *into); /* what is in memory over what is there */
void file_evicting(const struct block *block); /* what is being read from below may not have what this block has */
int file_verify(struct file *file); /* what is in memory against the target; 0 or an errno. Releases the lock meanwhile */

/* store.c: the NVMe. Nothing of it is called without a store. With the lock held. */
void store_start(void);
/* What came into these blocks, before it is acknowledged. 0 or an errno. Releases the lock meanwhile. */
int store_write(struct file *file, uint64_t offset, struct iovec *parts, int count, uint32_t size, int64_t mtime);
int store_read(struct file *file, uint64_t offset, uint32_t size, char *into); /* lays what is stored over it; unlocks */
/* The first run of stored bytes at or behind `from`, at most `room`; its length. Releases the lock meanwhile. */
uint64_t store_collect(struct file *file, uint64_t from, uint64_t room, uint64_t *offset, char *into, int *error);
uint64_t store_mark(void); /* what is written from now on has a sequence beyond it */
int store_drained(struct file *file, uint64_t mark); /* the target has all up to the mark; 0 or an errno, then nothing is removed */
int store_cut(struct file *file, uint64_t size); /* 0 or an errno, then all is still there */
void store_forget(struct file *file);
int store_path(struct file *file); /* it has another path now */
void store_time(struct file *file);
void store_orphan(struct file *file); /* its last name is gone */
int store_sync(struct file *file); /* unlocks meanwhile */
uint64_t store_used(void);
void store_tidy(void); /* removes what is not needed any more */

/* drain.c */
void drain_start(void);
int drain_wait(struct file *file); /* pushes it, waits until the target has it; 0 or an errno. With the lock held */

/* session.c, control.c, record.c */
void sessions_start(void);
void control_run(void) __attribute__((noreturn));
void record_start(void);
void record_dirty(struct file *file, bool dirty);
void record_renamed(struct file *file, const char *old); /* file->path is the new one */

#endif
