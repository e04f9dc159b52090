/* SPDX-License-Identifier: MIT */
/*
 * Crash marks: a process that dies of itself says so in one word of a file that outlives it, so
 * that its successor can tell a crash from SIGKILL.
 *
 * The handler belongs to the process, so there is one, in the framework's native module
 * (worker/native/crash.c). It hands out the address of a struct plane_crash, and a device type's
 * module, which is linked apart, writes there which word to mark.
 */
#ifndef XENBACKD_PLANE_CRASH_H
#define XENBACKD_PLANE_CRASH_H

#include <stddef.h>
#include <stdint.h>

/* Signals by which a process dies of itself. No thread may mask them: they would kill unseen. */
#define PLANE_CRASH_SIGNALS {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP}

struct plane_crash {
    uint32_t *volatile word; /* set to 1 by a crash, in mapped memory; NULL: none now */
};

/* From now on a crash sets the word. Without a handler `crash` is NULL, and nothing happens. */
static inline void plane_crash_mark(struct plane_crash *crash, uint32_t *word)
{
    if (crash)
        crash->word = word;
}

/* The word goes away. A later one stays. */
static inline void plane_crash_forget(struct plane_crash *crash, const uint32_t *word)
{
    if (crash && crash->word == word)
        crash->word = NULL;
}

#endif
