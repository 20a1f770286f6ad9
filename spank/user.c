/* A user's rights for a moment, by effective ids. A user's FUSE file system refuses it, and cannot hang it. */
#define _GNU_SOURCE
#include "ebb_spank.h"

#include <grp.h>
#include <stdlib.h>
#include <unistd.h>

/* 0, and `before` holds what was, for ebb_return; -1 with errno, and nothing changed. */
int ebb_become(const ebb_user *user, ebb_user *before)
{
	before->uid = geteuid();
	before->gid = getegid();
	before->group_count = getgroups(0, NULL);
	if (before->group_count < 0)
		return -1;
	before->groups = calloc((size_t)before->group_count + 1, sizeof(gid_t));
	if (!before->groups || getgroups(before->group_count, before->groups) != before->group_count)
		goto failed;
	if (setgroups((size_t)user->group_count, user->groups) != 0)
		goto failed;
	if (setegid(user->gid) != 0 || seteuid(user->uid) != 0) {
		ebb_return(before);
		return -1;
	}
	return 0;
failed:
	free(before->groups);
	before->groups = NULL;
	return -1;
}

/* Back to what was. A process that cannot must not go on with a mixture of rights. */
void ebb_return(ebb_user *before)
{
	if (seteuid(before->uid) != 0 || setegid(before->gid) != 0 ||
	    setgroups((size_t)before->group_count, before->groups) != 0)
		_exit(1);
	free(before->groups);
	before->groups = NULL;
}
