/* A set of byte ranges [from, to), sorted, never touching each other. */
#ifndef SBB_RANGES_H
#define SBB_RANGES_H

#include <stdbool.h>
#include <stdint.h>

struct range {
	uint32_t from, to;
};

struct ranges {
	uint32_t count, room;
	struct range one; /* most sets have one: no memory of its own */
	struct range *more;
};

static inline struct range *ranges_all(const struct ranges *set)
{
	return set->more ? set->more : (struct range *)&set->one;
}

uint32_t ranges_add(struct ranges *set, uint32_t from, uint32_t to);    /* bytes that are new in it */
uint32_t ranges_remove(struct ranges *set, uint32_t from, uint32_t to); /* bytes that were in it */
bool ranges_cover(const struct ranges *set, uint32_t from, uint32_t to);
/* The first part of [from, to) that is not in it; false if there is none. */
bool ranges_gap(const struct ranges *set, uint32_t from, uint32_t to, struct range *gap);
uint32_t ranges_bytes(const struct ranges *set);
void ranges_clear(struct ranges *set);

#endif
