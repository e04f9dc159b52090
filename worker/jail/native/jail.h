/* SPDX-License-Identifier: MIT */
/*
 * The system calls of the jail that Python's os module does not have. Each gives 0 (or what its
 * comment says) or -errno. cffi reads this file too: plain declarations only.
 */
#ifndef XENBACKD_JAIL_H
#define XENBACKD_JAIL_H

#include <stdint.h>

/* Capability sets as masks, bit n for capability n. */
struct jail_caps {
    uint64_t effective, permitted, inheritable;
};

int jail_close_range(unsigned int first, unsigned int last);
/* prctl with one argument; its result if that is not negative. */
int jail_prctl(int option, unsigned long value);
/* Empty the bounding set, up to the last capability the kernel knows. */
int jail_drop_bounding(void);
/* Of a thread of this process, by its id; 0 is the caller. */
int jail_capget(int thread, struct jail_caps *out);
int jail_capset(const struct jail_caps *caps);
int jail_unshare(int flags);
int jail_setns(int namespace, int type);
int jail_mount(const char *source, const char *target, const char *type, unsigned long flags,
               const char *data);
int jail_umount(const char *target, int flags);
int jail_pivot_root(const char *new_root, const char *put_old);
/* Version of Landlock's interface; -errno where there is none. */
int jail_landlock_abi(void);
/* Forbid this thread, and those it starts, all of the named accesses: a ruleset without a rule. */
int jail_landlock(uint64_t files, uint64_t network, uint64_t scopes);

#endif
