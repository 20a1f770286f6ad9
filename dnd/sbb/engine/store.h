/*
 * What the two halves of the store share: store.c (what goes in and out) and log.c (segments, records, replay).
 *
 * Large writes go into a file of their own a target file, at their own offsets; small ones, and all that happened, into a log
 * of segments. Each record has a checksum. What counts is the order of the records.
 */
#ifndef SBB_STORE_H
#define SBB_STORE_H

#include "server.h"

#define OWN 0 /* the "segment" of bytes in a file's own file */

enum record_type {
	RECORD_PATH = 1, /* data: path; offset: birth */
	RECORD_SMALL,    /* data: bytes of the file at offset */
	RECORD_LARGE,    /* size bytes at offset are in the file's own file */
	RECORD_CUT,      /* everything from size on is gone */
	RECORD_TIME,     /* mtime */
	RECORD_DRAINED,  /* all with a sequence up to `size` is on the target */
	RECORD_GONE,     /* forget the file */
	RECORD_ORPHAN,   /* its last name is gone */
};

struct record {
	uint32_t magic;
	uint32_t checksum; /* of all that follows, and of the data */
	uint32_t type;
	uint32_t length; /* of the data behind it, which is padded to 8 bytes */
	uint64_t sequence;
	uint64_t ino;
	uint64_t offset;
	uint64_t size;
	int64_t mtime;
	uint32_t target;
	uint32_t unused;
};

struct place { /* where a record's data went */
	uint32_t segment;
	uint64_t position;
};

/* log.c. With S.lock held; log_append releases it meanwhile. */
void log_start(void); /* replays what there is, then begins a new segment */
void log_turn(void); /* until nobody appends: what is looked at now is what the next record comes behind */
int log_append(struct record *record, const struct iovec *data, int count, struct place *place);
int log_read(uint32_t segment, uint64_t position, char *into, uint64_t size);
int log_sync(void); /* all of it is on the NVMe; EIO as long as there is something of which an earlier call could not say so */
int log_sync_last(void); /* the record that was just appended is, or an errno */
void log_live(uint32_t segment, int64_t bytes); /* that many more of its bytes are needed */
uint64_t log_used(void);
void log_trim(void); /* removes segments that nobody needs */

/* store.c, for the replay */
uint64_t stored_put(struct file *file, uint64_t from, uint64_t to, uint64_t sequence, struct place place);
uint64_t stored_remove(struct file *file, uint64_t from, uint64_t to, uint64_t upto); /* sequences up to `upto` */
int store_file_state(struct file *file); /* logs again what is known of it, so that older segments can go; 0 or an errno */
int own_open(struct file *file);
extern int store_directory;

#endif
