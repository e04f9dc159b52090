/* SPDX-License-Identifier: MIT */
/* The handler behind crash marks. cffi reads this file too: plain declarations only. */
#ifndef XENBACKD_CRASH_H
#define XENBACKD_CRASH_H

struct plane_crash; /* worker/plane/crash.h */

/*
 * From now on, when this process dies of itself (SIGSEGV, SIGABRT, ...), set the word that is named
 * in the result, then let the signal do what it did before. The result is the same each time and
 * stays valid: it is for a device type's own module, by its address.
 */
struct plane_crash *crash_watch(void);

#endif
