#include "ranges.h"

#include <stdlib.h>
#include <string.h>

#include "common.h"

static void room_for(struct ranges *set, uint32_t count)
{
	if (count <= (set->more ? set->room : 1))
		return;
	uint32_t room = set->more ? set->room * 2 : 4;
	struct range *more = must_realloc(set->more, room * sizeof *more);
	if (!set->more && set->count)
		more[0] = set->one;
	set->more = more;
	set->room = room;
}

/* Replaces `gone` ranges at `at` by one, or by none. */
static void splice(struct ranges *set, uint32_t at, uint32_t gone, const struct range *by)
{
	uint32_t come = by ? 1 : 0;
	room_for(set, set->count - gone + come);
	struct range *all = ranges_all(set);
	memmove(all + at + come, all + at + gone, (set->count - at - gone) * sizeof *all);
	set->count = set->count - gone + come;
	if (by)
		all[at] = *by;
}

/* The first range that ends at or behind `from`. */
static uint32_t first_at(const struct ranges *set, uint32_t from)
{
	const struct range *all = ranges_all(set);
	uint32_t low = 0, high = set->count;
	while (low < high) {
		uint32_t middle = (low + high) / 2;
		if (all[middle].to < from)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

uint32_t ranges_add(struct ranges *set, uint32_t from, uint32_t to)
{
	if (from >= to)
		return 0;
	uint32_t at = first_at(set, from), end = at, had = 0;
	struct range whole = {from, to};
	const struct range *all = ranges_all(set);
	for (; end < set->count && all[end].from <= to; end++) {
		had += all[end].to - all[end].from;
		if (all[end].from < whole.from)
			whole.from = all[end].from;
		if (all[end].to > whole.to)
			whole.to = all[end].to;
	}
	splice(set, at, end - at, &whole);
	return whole.to - whole.from - had;
}

uint32_t ranges_remove(struct ranges *set, uint32_t from, uint32_t to)
{
	uint32_t gone = 0;
	for (uint32_t at = first_at(set, from); at < set->count;) {
		struct range *one = ranges_all(set) + at, before = *one;
		if (before.from >= to)
			break;
		if (before.to <= from) {
			at++;
			continue;
		}
		uint32_t cut_from = before.from > from ? before.from : from, cut_to = before.to < to ? before.to : to;
		gone += cut_to - cut_from;
		struct range left = {before.from, cut_from}, right = {cut_to, before.to};
		splice(set, at, 1, NULL);
		if (left.from < left.to)
			splice(set, at++, 0, &left);
		if (right.from < right.to)
			splice(set, at++, 0, &right);
	}
	return gone;
}

bool ranges_gap(const struct ranges *set, uint32_t from, uint32_t to, struct range *gap)
{
	const struct range *all = ranges_all(set);
	for (uint32_t at = first_at(set, from); at < set->count && all[at].from <= from; at++)
		if (all[at].to > from)
			from = all[at].to;
	if (from >= to)
		return false;
	uint32_t at = first_at(set, from);
	while (at < set->count && all[at].to <= from)
		at++;
	gap->from = from;
	gap->to = at < set->count && all[at].from < to ? all[at].from : to;
	return true;
}

bool ranges_cover(const struct ranges *set, uint32_t from, uint32_t to)
{
	struct range gap;
	return !ranges_gap(set, from, to, &gap);
}

uint32_t ranges_bytes(const struct ranges *set)
{
	uint32_t bytes = 0;
	for (uint32_t i = 0; i < set->count; i++)
		bytes += ranges_all(set)[i].to - ranges_all(set)[i].from;
	return bytes;
}

void ranges_clear(struct ranges *set)
{
	free(set->more);
	memset(set, 0, sizeof *set);
}
