/* SPDX-License-Identifier: MIT */
/* How long, and where, threads run. cffi reads this file too: plain declarations only. */
#ifndef XENBACKD_SLICE_H
#define XENBACKD_SLICE_H

#include <stdint.h>

/* Nanoseconds the calling thread runs at a stretch; 0 before Linux 6.12; or -errno. */
int64_t slice_get(void);

/*
 * Ask for a slice of this length, for the calling thread and those it starts. 0, or -errno. Before
 * Linux 6.12, and in a class that has no slices, nothing is done.
 */
int slice_set(uint64_t nanoseconds);

/*
 * Keep the calling thread, and those it starts, on the CPU it is running on. 0, or -errno: nothing
 * has changed. Once in a process, before it has other threads.
 */
int slice_stay(void);

/*
 * Let all threads run again where the process could run before slice_stay, if that was called. 0,
 * or -errno; needs /proc.
 */
int slice_roam(void);

#endif
