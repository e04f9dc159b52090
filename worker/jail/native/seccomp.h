/* SPDX-License-Identifier: MIT */
/* seccomp(2). cffi reads this file too: plain declarations only. */
#ifndef XENBACKD_SECCOMP_H
#define XENBACKD_SECCOMP_H

#include <stdint.h>

/* This thread, and what it starts, gains no privilege by execve any more. 0 or -errno. */
int seccomp_no_new_privs(void);

/*
 * Put all threads under a filter of `count` instructions (struct sock_filter). 0, -errno, or the
 * id of a thread that could not be put under it: then none was.
 */
int seccomp_load(const void *program, uint16_t count, int log);

/* Whether the kernel has seccomp(2) and can put all threads under a filter at once. */
int seccomp_available(void);

/* Whether filters may say this verdict (SECCOMP_RET_*; Linux since 4.14 tells). */
int seccomp_knows(uint32_t verdict);

#endif
