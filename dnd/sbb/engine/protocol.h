/*
 * What goes over a connection: a fixed header, then `length` bytes. Little-endian (all of a site's nodes are), both ways the
 * same header; an answer repeats op and id. A connection's requests are worked on in their order. docs/sbb.md has the design.
 */
#ifndef SBB_PROTOCOL_H
#define SBB_PROTOCOL_H

#include <stdint.h>

#define PROTOCOL_MAGIC "SBB1"
#define MAX_PAYLOAD (1u << 20) /* bytes of one READ or WRITE */

enum op {
	OP_READ = 1,  /* offset, size, version -> bytes; EDGE if some lie beyond what the server knows to exist. ESTALE: the
			 server cannot reach the target's file; a payload of `size` bytes is what the target has there */
	OP_WRITE,     /* offset, payload, mtime */
	OP_GETATTR,   /* -> BUFFERED, size (end of the buffered bytes), mtime; version: the time that a drain just set on the
			 target's file: a client that sees another one there may see an old size too */
	OP_PATH,      /* payload: "path" the file has below its target; offset: its birth. No answer */
	OP_OPEN,      /* offset: its birth. This client has the file open from now on */
	OP_CLOSE,     /* and no more */
	OP_TRUNCATE,  /* size; AFTER: the target has been cut, forget what was cached beyond */
	OP_FLUSH,     /* mtime; DURABLE: onto NVMe; TARGET: onto the target -> all writes before are there, all caches know */
	OP_RESERVE,   /* size (bytes to append), offset (end of file as the client knows), version (random: the same when it is
			 asked again) -> offset to write at */
	OP_HOLD,      /* open the target's file now: its last name is about to go, and somebody has it open */
	OP_UNLINK,    /* -> BUFFERED: somebody has it open. AFTER: its last name is gone -> DROPPABLE: nobody has it open, tell all
			 servers to drop it */
	OP_DROP,      /* forget the file and its bytes */
	OP_RENAME,    /* payload: "old\0new" below target; ino 0: a directory */
	OP_SETTIME,   /* mtime: what the program said it is */
	OP_INVALIDATE /* server to client, callback connection: others changed this file; ino 0: ALONE: there is no other client,
			 the kernel may keep names and attributes until told otherwise; else: there is one from now on. Answer
			 when that is heeded */
};

enum flag {
	FLAG_BUFFERED = 1,
	FLAG_EDGE = 2,
	FLAG_DROPPABLE = 4,
	FLAG_AFTER = 8,
	FLAG_DURABLE = 16,
	FLAG_TARGET = 32,
	FLAG_ALONE = 64,
	FLAG_SHARED = 128, /* READ, WRITE: the bytes, `size` of them, lie at `place` of the memory that the client shares, or
			      shall go there; length is 0. In an answer: they are there */
};

struct message {
	uint32_t length; /* payload that follows */
	uint16_t op;
	uint16_t flags;
	uint64_t id;
	union {
		int32_t error;  /* errno in answers */
		uint32_t place; /* SHARED requests */
	};
	uint32_t target; /* index */
	uint64_t ino;
	uint64_t offset;
	uint64_t size;
	int64_t mtime; /* ns */
	uint64_t version; /* of the target's file, as the client saw it: cached bytes of another one are stale */
};

/* What a connection is for. */
enum kind { KIND_CALLBACK = 1, KIND_META, KIND_DATA, KIND_MAY_SHARE = 256 /* added: this client has memory to share */ };

struct hello { /* client to server */
	char magic[4];
	uint32_t kind;
	uint64_t client; /* random, the same on all of a client's connections */
	uint64_t job;
	uint64_t expires; /* Unix time */
	char sid[64];
	unsigned char nonce[32];
};

struct challenge { /* server to client; proof is HMAC(T, "server", hello, nonce) */
	unsigned char nonce[32];
	unsigned char proof[32];
};

struct proof { /* client to server; HMAC(T, "client", hello, nonce) */
	unsigned char proof[32];
};

enum { WELCOME_STORED = 1, WELCOME_SHARES = 2 };

struct welcome { /* server to client */
	int32_t error; /* EACCES: wrong key; ESTALE: expired; EPROTO: another version, sid or stripe */
	uint32_t index;
	uint32_t count;
	uint32_t stored; /* bits: STORED, what was acknowledged survives the server's process; SHARES, the client is to send
			    its memory (link_offer) before anything else */
	uint64_t epoch;  /* changes when a server lost what it had */
	uint64_t stripe;
};

#define ALONE_SECONDS 1 /* how long it may keep them at most */

/* Which server has byte `offset` of a file, and which one knows who has it open and hands out places to append at. */
static inline uint32_t home_of(uint64_t ino, uint32_t count)
{
	return (uint32_t)((ino * 0x9E3779B97F4A7C15ull >> 32) % count);
}

static inline uint32_t server_of(uint64_t ino, uint64_t offset, uint64_t stripe, uint32_t count)
{
	return (uint32_t)((home_of(ino, count) + offset / stripe) % count);
}

#endif
